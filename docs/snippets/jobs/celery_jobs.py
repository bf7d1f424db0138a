import os

from celery import Celery
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown
from langchain_core.language_models.fake_chat_models import FakeListChatModel

from llmctx import take_over
from llmctx.calllog import CallLog

app = Celery("jobs", broker=os.environ["BROKER_URL"])
call_log = CallLog()
for starting in (worker_init, worker_process_init):  # with --pool threads there are no processes
    starting.connect(lambda **_: call_log.start(), weak=False)
for ending in (worker_process_shutdown, worker_shutdown):
    ending.connect(lambda **_: call_log.close(), weak=False)
model = FakeListChatModel(responses=["It is fine."])  # yours


@app.task(name="summarise")
def summarise(text, identity):
    with take_over(identity):
        return model.invoke(text).text
