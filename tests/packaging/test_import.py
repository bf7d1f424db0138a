"""`import llmctx` costs next to nothing: whoever only binds an id loads the standard library alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
before = set(sys.modules)
import llmctx
llmctx.bind, llmctx.amend, llmctx.carry, llmctx.current, llmctx.CallContext
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names) - {"llmctx"}))
"""


def test_importing_llmctx_loads_nothing_third_party() -> None:
    """A fresh interpreter has only standard library modules and ours afterwards."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_wrapping_graphs_needs_no_langchain() -> None:
    """`llmctx.graph` asks for langgraph; only `llmctx.graph.agents` for langchain."""
    program = "import sys, llmctx.graph; print('langgraph' in sys.modules, 'langchain' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_importing_llmctx_takes_less_than_30_ms(tmp_path: Path) -> None:
    """30 ms, or three times what `dataclasses` alone takes where other work slows the machine down; best of seven."""
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}  # compiled, as an installed package is
    env.pop("PYTHONDONTWRITEBYTECODE", None)

    def took(module: str) -> float:
        program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        return float(done.stdout)

    for module in ("llmctx", "dataclasses"):
        took(module)
    ours, theirs = (
        min(times) for times in zip(*((took("llmctx"), took("dataclasses")) for _ in range(7)), strict=True)
    )
    assert ours < max(0.030, 3 * theirs)


@pytest.mark.parametrize("former", ["agents", "errors", "record", "registry", "registry.redis"])
def test_a_former_path_still_works_and_warns(former: str) -> None:
    """Whoever imports from a former path gets the same objects, and is told where they are now."""
    names = {
        "agents": "LlmctxMiddleware",
        "errors": "LlmctxError",
        "record": "CallRecord",
        "registry": "MemoryRegistry",
        "registry.redis": "RedisRegistry",
    }
    name = names[former]
    program = (
        f"import warnings; warnings.simplefilter('error')\n"
        f"try:\n    import llmctx.{former}\nexcept DeprecationWarning as warning:\n    print(warning)\n"
        f"warnings.simplefilter('ignore')\nfrom llmctx.{former} import {name}; print({name}.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said, module = done.stdout.splitlines()
    assert "has moved" in said
    assert module.startswith(("llmctx.core.", "llmctx.graph.", "llmctx.identity."))
