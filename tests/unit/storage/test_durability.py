"""What a server may lose is said in words that fit its number of standbys."""

from __future__ import annotations

import pytest

from llmctx.storage.durability import risks_of

NOTHING = {"fsync": "on", "full_pages": "on", "unlogged": None, "synchronous": "", "asynchronous": 0}


@pytest.mark.parametrize(
    ("standbys", "cause", "consequence"),
    [
        (1, "1 standby server follows, and no commit waits for it", "When it takes over"),
        (2, "2 standby servers follow, and no commit waits for any of them", "When one of them takes over"),
    ],
)
def test_standbys_that_no_commit_waits_for(standbys: int, cause: str, consequence: str) -> None:
    """One or more."""
    (risk,) = risks_of({**NOTHING, "asynchronous": standbys})
    assert risk.cause == cause
    assert risk.consequence.startswith(consequence)
    assert not risks_of({**NOTHING, "asynchronous": standbys, "synchronous": "*"})
