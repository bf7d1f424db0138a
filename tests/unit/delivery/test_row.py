"""What a row and its marker are made of."""

from __future__ import annotations

from uuid import uuid4

import orjson
import pytest

from llmctx.capture.call import OpenCall
from llmctx.core.record import Reason, Source
from llmctx.delivery.row import marker_of
from llmctx.identity.candidates import Candidates
from llmctx.identity.resolution import Attribution
from llmctx.identity.scope import CallContext

A = CallContext(user_id="a", session_id='s "a" ü')
NOBODY = CallContext()


@pytest.mark.parametrize("identity", [A, CallContext(user_id="b", agent_key="clerk", thread_id="t"), NOBODY])
@pytest.mark.parametrize("metadata", [{"ls_model_name": "m", "langgraph_node": "step", "graph_id": "g"}, {}, None])
def test_a_marker_is_the_same_whether_a_call_like_it_was_marked_before(
    identity: CallContext, metadata: dict[str, object] | None
) -> None:
    """Parts of markers are kept and used again: each call has its own ids all the same."""
    for user in (identity, CallContext(user_id="c"), identity):
        call = OpenCall(uuid4(), Candidates(), Attribution(user, Source.EXPLICIT, Reason.PARTIAL))
        call.metadata = metadata
        found = orjson.loads(marker_of(call))
        assert call.run_id is not None
        named = metadata or {}
        expected = {
            "session_id": user.session_id,
            "user_id": user.user_id,
            "thread_id": user.thread_id,
            "agent_key": user.agent_key or named.get("graph_id"),
            "model": named.get("ls_model_name", "unknown"),
            "node": named.get("langgraph_node"),
            "identity_source": "explicit",
            "identity_reason": "partial",
            "run_id": call.run_id.hex,
        }
        assert found == {name: value for name, value in expected.items() if value is not None}
