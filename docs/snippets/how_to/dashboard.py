from fastapi import FastAPI

from llmctx.calllog import CallLog
from llmctx.dashboard import Access, Dashboard

SUPPORT = {"maria"}  # may read prompts and responses
call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)


async def who_may(request):
    user = request.scope.get("user")  # the application's own login
    if user is None or not user.is_authenticated:
        return None
    return Access(user.display_name, texts=user.display_name in SUPPORT)


app.mount("/admin/llm", Dashboard(call_log, authorize=who_may))
