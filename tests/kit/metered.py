"""An application that is scraped, and sends spans by OTLP: `uvicorn --workers 2 tests.kit.metered:app`."""

from __future__ import annotations

import random

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from llmctx import CallContext
from llmctx.calllog import CallLog
from llmctx.middleware import ContextMiddleware
from llmctx.prometheus import metrics_app
from tests.kit.support import ProviderDown, Talker

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # to OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
trace.set_tracer_provider(provider)
call_log = CallLog(otel_spans="on")
app = FastAPI(lifespan=call_log.lifespan)
app.add_middleware(ContextMiddleware, identify=lambda request: CallContext(user_id="ann", session_id="s-1"))
app.mount("/metrics", metrics_app(call_log))


@app.get("/ask")
async def ask(number: int) -> str:
    """Ask a model: in vain one time in ten, streamed one time in three; some calls have a price."""
    prompt = "[fail]" if number % 10 == 0 else "hello"
    try:
        if number % 3 == 0:
            return "".join([str(chunk.content) async for chunk in Talker().astream(prompt)])
        if number % 7 == 0:
            with call_log.record(model="whisper", provider="openai", prompt_tokens=number, cost_usd=0.125):
                return str(random.random())
        return str((await Talker().ainvoke(prompt)).content)
    except ProviderDown:
        return "down"
