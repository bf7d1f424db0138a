"""The names are those of the newest `opentelemetry-util-genai`, which is what instrumentations emit."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import opentelemetry.util.genai as genai
import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, user_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, exception_attributes, server_attributes
from opentelemetry.util.genai import _instruments

from llmctx.telemetry import names

NEWER = {names.EXCEPTION, "session.id"}
"""What the conventions have and the package has not."""


def spelled(module: ModuleType) -> set[object]:
    return {value for value in vars(module).values() if isinstance(value, str)}


def in_sources() -> str:
    modules = [importlib.import_module(f"{genai.__name__}.{one.name}") for one in pkgutil.iter_modules(genai.__path__)]
    return "".join(inspect.getsource(module) for module in (genai, *modules))


OURS = {
    name: value
    for name, value in vars(names).items()
    if name.isupper() and isinstance(value, str) and "." in value and not value.startswith("llmctx.")
}


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_name_is_one_of_the_conventions(name: str) -> None:
    """As attribute, metric or event, in the constants of the conventions or the sources of util-genai."""
    modules = (gen_ai_attributes, gen_ai_metrics, user_attributes, error_attributes, exception_attributes)
    known = set().union(*map(spelled, (*modules, server_attributes)), NEWER)
    assert OURS[name] in known or f'"{OURS[name]}"' in in_sources()


def test_buckets_are_those_of_the_conventions() -> None:
    """Of durations and of tokens."""
    assert list(names.SECONDS) == _instruments._GEN_AI_CLIENT_OPERATION_DURATION_BUCKETS
    assert list(names.TOKENS) == _instruments._GEN_AI_CLIENT_TOKEN_USAGE_BUCKETS


def test_operations_and_providers_are_those_of_the_conventions() -> None:
    """Whatever LangChain calls a provider, it comes out under the name that tools know."""
    operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    assert {names.CHAT, names.TEXT_COMPLETION, names.EMBEDDINGS} <= operations
    providers = {one.value for one in gen_ai_attributes.GenAiProviderNameValues}
    assert set(names.PROVIDERS.values()) <= providers


@pytest.mark.parametrize(
    ("asked", "adds"),
    [("", False), ("gen_ai_latest_experimental", False), ("http, gen_ai/dup", True), ("gen_ai/dup", True)],
)
def test_former_names_are_added_when_asked_for(asked: str, adds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SEMCONV_STABILITY_OPT_IN, as other instrumentations read it."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", asked)
    assert names.adds_former_names() is adds
