"""An identity that travels in a config's metadata, and shows in nothing that is made of them.

Metadata are what streams, events, tracers and clients are shown. LangGraph puts a node's thread there, and its task:
`wrap_graph` puts the same text in its place as a `Carrier`, which has an identity beside its letters. Whatever is
handed on with the metadata has it, also in a bare thread, in another process and, if it is the thread, in graphs that
run there; what is shown, stored or sent as JSON is the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

from llmctx.core.diagnostics import diagnostics
from llmctx.core.errors import LlmctxError
from llmctx.core.guard import swallow
from llmctx.core.text import plain_text
from llmctx.identity import handover
from llmctx.identity.authority import SAME_NAMES, data_ids
from llmctx.identity.scope import EMPTY, ID_FIELDS, CallContext

THREAD_KEY: Final = "thread_id"
TASK_KEY: Final = "langgraph_checkpoint_ns"
"""Keys in `config["metadata"]` of texts that may be a `Carrier`. Graphs inside have tasks of their own."""

CARRIED_KEY: Final = "llmctx"
"""Key in `config["metadata"]` under which ids may stand that were packed elsewhere: data, unless they are signed."""

_SIGNED: Final = "signed"
_ids_of = attrgetter(*ID_FIELDS)


class CarriedIdentity:
    """An identity on its way, known by its class to be made by this process: no JSON becomes one."""

    __slots__ = ("identity", "last", "of_request")

    def __init__(self, identity: CallContext, of_request: int) -> None:
        self.identity = identity
        self.of_request = of_request
        """The request in which it was made (`Scope.of_request`)."""
        self.last: Carrier | None = None
        """The last that was made of it: many a node runs on the same thread."""


class Carrier(str):
    """A text with an identity: equal to the text, printed and stored as the text.

    Pickled it takes the ids along, signed if there is a hand-over key.
    """

    __slots__ = ("sent", "text")

    text: str
    sent: CarriedIdentity | dict[str, str]
    """The identity; its ids, as `pack` made them, if the text comes from another process."""

    # A text gives way to what is a kind of text with an idea of its own of what it equals: this one as well.

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) if type(other) in _TEXTS else NotImplemented

    def __ne__(self, other: object) -> bool:
        return str.__ne__(self, other) if type(other) in _TEXTS else NotImplemented

    __hash__ = str.__hash__

    def __copy__(self) -> Carrier:
        return self

    def __deepcopy__(self, memo: object) -> Carrier:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        sent = self.sent
        if type(sent) is CarriedIdentity:
            ids = pack(sent.identity)
            if handover.has_key():
                try:
                    ids[_SIGNED] = handover.sign(sent.identity)
                except Exception as problem:  # noqa: BLE001  it may be pickled anywhere
                    swallow(problem, "handover_failed", "an identity could not be signed for another process")
            sent = ids
        return carrier, (self.text, sent)


_TEXTS: Final = (str, Carrier)


def carrier(text: str, sent: CarriedIdentity | dict[str, str]) -> Carrier:
    """Return `text` as a carrier of `sent`."""
    made = Carrier(text)
    made.text = str(text)
    made.sent = sent
    return made


def pack(identity: CallContext) -> dict[str, str]:
    """Return `identity` as a dict: ids only, nothing that is unknown."""
    return {name: value for name, value in zip(ID_FIELDS, _ids_of(identity), strict=True) if value is not None}


def unpack(value: object) -> CallContext:
    """Return the identity that `pack` made; an empty one for anything else."""
    if value is None:
        return EMPTY
    try:
        if isinstance(value, Mapping):
            return data_ids(value, SAME_NAMES)
    except Exception:  # noqa: BLE001, S110  objects of any kind: counted below
        pass
    diagnostics.count("carried_refused", "a config holds something else in place of an identity: ignored")
    return EMPTY


def signed_identity(value: object) -> CallContext | None:
    """Return the identity that another process has signed; None if there is none, or the signature is not ours."""
    try:
        token = value.get(_SIGNED) if type(value) is dict else None
        return None if type(token) is not str or not handover.has_key() else handover.read(token)
    except LlmctxError:
        diagnostics.count("carried_refused", "an identity in a config has a foreign signature: ignored")
        return None


def carried_in(metadata: Mapping[str, Any]) -> object:
    """Return what `metadata` carry: a `CarriedIdentity` of this process, or what a caller may have sent; else None."""
    text = metadata.get(THREAD_KEY)
    if type(text) is not Carrier:
        text = metadata.get(TASK_KEY)
    return text.sent if type(text) is Carrier else metadata.get(CARRIED_KEY)


def with_identity(metadata: Mapping[str, Any], sent: CarriedIdentity) -> Mapping[str, Any]:
    """Return `metadata` with `sent`: the same if they carry it, or have no text to carry it."""
    key = THREAD_KEY
    text = metadata.get(key)
    if not issubclass(type(text), str):
        key = TASK_KEY
        text = metadata.get(key)
    if type(text) is Carrier:
        if text.sent is sent:
            return metadata
        text = text.text
    elif type(text) is not str and (text := plain_text(text)) is None:
        return metadata
    last = sent.last
    if last is None or last.text != text:
        last = sent.last = carrier(text, sent)
    return {**metadata, key: last}
