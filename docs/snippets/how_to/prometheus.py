from fastapi import FastAPI

from llmctx.calllog import CallLog
from llmctx.prometheus import metrics_app

call_log = CallLog()
app = FastAPI(lifespan=call_log.lifespan)
app.mount("/metrics", metrics_app(call_log))
