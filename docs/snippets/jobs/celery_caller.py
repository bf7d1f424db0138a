from celery_jobs import summarise

from llmctx import bind, hand_over


def ask(text):
    with bind(session_id="s-1", user_id="u-1"):  # a request: ContextMiddleware does this
        summarise.delay(text, identity=hand_over())
