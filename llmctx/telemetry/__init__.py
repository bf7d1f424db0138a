"""Telemetry of finished calls for the tools around: names of conventions, attributes of spans, metrics. No LangChain.

The doors are `llmctx.otel` and `llmctx.prometheus`. Neither OpenTelemetry nor prometheus-client is imported before the
application asks for it; everything runs in the pipeline's thread, or where a span starts or metrics are read.
"""
