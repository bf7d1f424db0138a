from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from llmctx.calllog import CallLog
from llmctx.otel import LlmctxSpanProcessor

call_log = CallLog()  # with LLMCTX_OTEL_SPANS=on it also makes spans of its own

provider = TracerProvider()
provider.add_span_processor(LlmctxSpanProcessor(call_log))  # before the processors that export
trace.set_tracer_provider(provider)
