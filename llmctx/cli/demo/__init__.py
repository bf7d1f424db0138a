"""The demo: a small, real application, run with a naive callback handler and with llmctx. Needs no key and no server.

A clinic's assistant (FastAPI, LangGraph, ChatOpenAI, ChatAnthropic) is used by twenty patients at once; a provider on
loopback logs what was really called. Nothing outside of this folder imports it, apart from `postgres.py` in tests.
"""

from llmctx.cli.demo.demo import run

__all__ = ["run"]
