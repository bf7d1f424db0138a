"""The keys of a table, as servers name them."""

from __future__ import annotations

import pytest

from llmctx.delivery.destinations.sql.table_shape import TableShape

PARTITION = "biz_agent_llm_call_logs_p2026_11_pkey"
LONG = "a_table_with_a_name_of_forty_characters__p2026_11_pkey"


class Clash(Exception):
    def __init__(self, name: str | None) -> None:
        super().__init__("duplicate key value violates unique constraint")
        self.constraint_name = name


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        (PARTITION, True),
        (f"{PARTITION}_102017", True),  # a shard of Citus's
        (f"{LONG[:47]}_0f3a9c1e_102017", True),  # one whose name would be too long
        ("hosts_key", False),
        ("hosts_key_102017", False),
        (f"{PARTITION}_1", False),  # the host's own, whatever it looks like
        ("pk_orders_102017", False),
        ("a_0f3a9c1e_102017", False),
        (None, False),
    ],
)
def test_a_clash_is_of_the_call_only_by_its_own_key(name: str | None, is_ours: bool) -> None:
    """Also where it is a shard that says so."""
    keys, hosts = frozenset({PARTITION, LONG}), frozenset({"hosts_key", f"{PARTITION}_1"})
    assert TableShape("t", {"call_id": "uuid"}, keys=keys, host_keys=hosts).is_of_the_call(Clash(name)) is is_ours


class FromCitus(Exception):
    """A clash as Citus 13.2.2 reports it: by the message alone, and in COPY as XX000 of ReportCopyError."""

    constraint_name = None

    def __init__(self, code: str, name: str) -> None:
        super().__init__()
        self.sqlstate, self.message = code, f'duplicate key value violates unique constraint "{name}"'


@pytest.mark.parametrize(
    ("code", "name", "is_ours"),
    [
        ("XX000", f"{PARTITION}_102045", True),
        ("23505", f"{PARTITION}_102045", True),
        ("XX000", "hosts_key_102045", False),
        ("22P02", f"{PARTITION}_102045", False),  # a row may be quoted
    ],
)
def test_a_clash_whose_constraint_stands_in_the_message(code: str, name: str, is_ours: bool) -> None:
    """Else each row that comes twice would be searched for, and be refused as the row's fault."""
    shape = TableShape("t", {"call_id": "uuid"}, keys=frozenset({PARTITION}), host_keys=frozenset({"hosts_key"}))
    assert shape.is_of_the_call(FromCitus(code, name)) is is_ours
