"""Arguments of what an application makes at its start: one of another kind is an error there, which names it.

Later it would be a failure of every call or page, in the log alone.
"""

from __future__ import annotations

from llmctx.core.errors import ConfigError


def check_methods(name: str, value: object, *methods: str) -> None:
    """Raise `ConfigError` unless `value` is None or an object, no class, with these methods."""
    if value is None:
        return
    if isinstance(value, type):
        raise ConfigError(f"{name}= is the class {value.__name__}: pass an object of it.")
    lacking = [method for method in methods if not callable(getattr(value, method, None))]
    if lacking:
        raise ConfigError(f"{name}= is of type {type(value).__name__}, which has no {lacking[0]}().")


def check_function(name: str, value: object) -> None:
    """Raise `ConfigError` unless `value` can be called and is no class, whose objects would pass for an answer."""
    if isinstance(value, type) or not callable(value):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise ConfigError(f"{name}= is {what}: pass a function.")


def check_texts(**values: object) -> None:
    """Raise `ConfigError` for one that is neither None nor a text."""
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name}= is of type {type(value).__name__}: pass a text.")
