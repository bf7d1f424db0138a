"""Which registry a setting makes, and what of it shows."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from llmctx.calllog import CallLog
from llmctx.core.errors import ConfigError
from llmctx.delivery.memory_sink import MemorySink
from llmctx.identity.registry import MemoryRegistry, registry_of
from llmctx.identity.registry.redis import RedisRegistry
from llmctx.settings import load
from tests.conftest import ROOT
from tests.kit.shared_registry import A, ids, model, on, use_elsewhere


def test_the_setting_makes_one(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMCTX_REGISTRY_URL is all it takes; without it the registry is in memory."""
    assert isinstance(CallLog(sink=MemorySink()).registry, MemoryRegistry)
    monkeypatch.setenv("LLMCTX_REGISTRY_URL", redis_url)
    use_elsewhere(redis_url, prefix, "t", A)
    sink = MemorySink()
    with CallLog(sink=sink, registry_prefix=prefix) as call_log:
        thread = threading.Thread(target=lambda: model.invoke("hello", on("t")))
        thread.start()
        thread.join(60)
        assert call_log.flush(60) == 0
    assert ids(sink.records[0]) == ("a", "s-a")


def test_the_password_is_nowhere_to_be_seen() -> None:
    """Not in the repr of the registry, nor of the settings, nor of the call log."""
    url = "redis://me:top-secret@cache.internal:6379/1?password=top-secret"
    settings = load(registry_url=url)
    shown = f"{RedisRegistry(url)!r} {settings!r} {CallLog(sink=MemorySink(), registry_url=url)!r}"
    assert "top-secret" not in shown
    assert "cache.internal:6379/1" in shown


@pytest.mark.parametrize("url", ["", "cache:6379", "http://cache", "redis://cache:port/0"])
def test_a_url_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    """By the name of its setting."""
    with pytest.raises(ConfigError, match="LLMCTX_REGISTRY_URL"):
        RedisRegistry(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "llmctx\[redis\]"'):
        registry_of(load(registry_url="redis://cache"))


def test_the_driver_is_loaded_late() -> None:
    """Who has no shared registry does not pay for one."""
    program = "import sys, llmctx.identity.registry, llmctx.calllog; print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
