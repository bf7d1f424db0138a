from redis import Redis
from rq import Queue

from llmctx import bind, hand_over


def ask(url, text):
    with bind(session_id="s-1", user_id="u-1"):  # a request: ContextMiddleware does this
        Queue(connection=Redis.from_url(url)).enqueue("rq_jobs.summarise", text, identity=hand_over())
