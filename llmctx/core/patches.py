"""Patches of functions of the standard library that get along with other patches of the same functions.

Other libraries replace `Thread.start` and the like as well: by functions, descriptors, classes; before us or after us;
and put back what they found, whatever stands there by then. So nothing is replaced here: the function itself stays
where it is and gets other code, that calls ours with the same arguments. Code that calls the function in the end, from
within however many wrappers, calls us, and what puts it back puts us back.

Where the function cannot be found, or is no plain one, what stands in its place is replaced instead.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import warnings
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final

Make = Callable[[Any], Any]
"""Takes a function, returns what is called in its place, with the same arguments."""

_replacements: Final[list[Any]] = []
"""What has been put in place of something, until that is undone."""
_WRAPPERS: Final = 50  # looked through for the function itself
_LIBRARY: Final = sys.stdlib_module_names
_PLACEHOLDER: Final = "what is called instead"


def patch(owner: Any, name: str, make: Make) -> Callable[[], None] | None:
    """Let `owner.name` be what `make` returns of it; return what undoes that.

    None, if the class or module does not define it itself, or calls an earlier patch of ours still.
    """
    owner = _itself(owner, name)
    present = vars(owner).get(name)
    if present is None or _is_ours(present):
        return None
    function = function_within(owner, name)
    undo = None if function is None else _give_other_code(function, make)
    return undo if undo is not None else _replace(owner, name, present, make)


def _itself(owner: Any, name: str) -> Any:
    """Return the class of the standard library where another library has put a subclass in its place."""
    kinds = owner.__mro__ if isinstance(owner, type) else ()
    ours = (kind for kind in kinds if name in vars(kind) and kind.__module__.partition(".")[0] in _LIBRARY)
    return next(ours, owner)


def function_within(owner: Any, name: str) -> FunctionType | None:
    """Return the function that the module of `owner` defines as `owner.name`, within whatever others have put there."""
    module = owner if isinstance(owner, types.ModuleType) else sys.modules.get(owner.__module__)
    found = [vars(owner).get(name)]
    for one in found:  # grows meanwhile
        if type(one) is FunctionType and one.__globals__ is vars(module) and one.__code__.co_name == name:
            return one
        found += [part for part in _parts_of(one) if all(part is not known for known in found)][
            : _WRAPPERS - len(found)
        ]
    return None


def _parts_of(wrapper: Any) -> list[Any]:
    """Return what a wrapper may call: its closure, attributes, what it says that it wraps."""
    parts: list[Any] = []
    try:
        parts += [cell.cell_contents for cell in getattr(wrapper, "__closure__", None) or ()]
        parts += [getattr(wrapper, key, None) for key in ("__wrapped__", "__func__", "func")]
        parts += list(vars(wrapper).values())
    except Exception:  # noqa: BLE001, S110  empty cells, and objects of any kind
        pass
    return [part for part in parts if callable(part) and not isinstance(part, type)]


def _give_other_code(function: FunctionType, make: Make) -> Callable[[], None] | None:
    code = function.__code__
    original = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    original.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(original, function)
    del original.__wrapped__  # type: ignore[attr-defined]  # it is that itself
    replacement = functools.update_wrapper(make(original), original)
    try:
        function.__code__ = other = _calling(replacement, code)
    except ValueError:  # it is a closure
        return None
    function.__wrapped__ = original  # type: ignore[attr-defined]  # for `inspect`

    def undo() -> None:
        if function.__code__ is other:  # otherwise another patch has given it code that calls ours
            function.__code__ = code
            vars(function).pop("__wrapped__", None)

    return undo


def _calling(replacement: Any, code: CodeType) -> CodeType:
    """Return code with the parameters of `code` that calls `replacement` with them."""
    names = list(code.co_varnames)
    positional, keywords = names[: code.co_argcount], names[code.co_argcount :][: code.co_kwonlyargcount]
    rest = names[code.co_argcount + code.co_kwonlyargcount :]
    taken, given = list(positional), list(positional)
    if code.co_posonlyargcount:
        taken.insert(code.co_posonlyargcount, "/")
    if code.co_flags & inspect.CO_VARARGS:
        given.append(f"*{rest[0]}")
        taken.append(f"*{rest.pop(0)}")
    elif keywords:
        taken.append("*")
    taken += keywords
    given += [f"{key}={key}" for key in keywords]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        given.append(f"**{rest[0]}")
        taken.append(f"**{rest[0]}")
    begin, answer = ("async def", "await ") if code.co_flags & inspect.CO_COROUTINE else ("def", "")
    source = f"{begin} {code.co_name}({', '.join(taken)}): return {answer}{_PLACEHOLDER!r}({', '.join(given)})"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a text is called
        module = compile(source, __file__, "exec")
    (made,) = [const for const in module.co_consts if isinstance(const, CodeType)]
    consts = tuple(replacement if const == _PLACEHOLDER else const for const in made.co_consts)
    return made.replace(co_consts=consts, co_qualname=code.co_qualname)


# -- where that is not possible ---------------------------------------------------------------------------------------


def _replace(owner: Any, name: str, present: Any, make: Make) -> Callable[[], None] | None:
    # by its real type: wrapt's wrappers say that they are functions
    is_descriptor = not issubclass(type(present), (FunctionType, type)) and hasattr(present, "__get__")
    replacement = make(_as_method(present) if isinstance(owner, type) and is_descriptor else present)
    if not isinstance(replacement, type):
        functools.update_wrapper(replacement, present)
    try:
        setattr(owner, name, replacement)
    except TypeError:  # a class that is compiled, such as gevent's queues
        return None
    _replacements.append(replacement)

    def undo() -> None:
        if vars(owner).get(name) is replacement:  # otherwise another library has wrapped us, and still calls us
            setattr(owner, name, present)
            _replacements.remove(replacement)

    return undo


def _is_ours(function: Any) -> bool:
    """Return whether `function` calls a replacement that was left in place, because another library had wrapped it."""
    for _ in range(_WRAPPERS):
        if function is None or any(function is ours for ours in _replacements):
            return function is not None
        function = getattr(function, "__wrapped__", None)
    return False


def _as_method(descriptor: Any) -> Callable[..., Any]:
    """Return a function for what another library has put in place of a method: wrapt's wrappers want to be bound."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return descriptor.__get__(self, type(self))(*args, **kwargs)

    return call
