import os

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import take_over
from llmctx.calllog import CallLog

app = Celery("jobs", broker=os.environ["BROKER_URL"])
call_log = CallLog()
worker_process_init.connect(lambda **_: call_log.start(), weak=False)
worker_process_shutdown.connect(lambda **_: call_log.close(), weak=False)
model = FakeListChatModel(responses=["It is fine."])  # yours


@app.task(name="summarise")
def summarise(text, identity):
    with take_over(identity):
        return model.invoke(text).text
