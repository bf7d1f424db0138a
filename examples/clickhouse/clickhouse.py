"""An analytical store beside the table: every row in ClickHouse as well, from the same frames of the broker.

    pip install "llmctx[nats]" clickhouse-connect
    export LLMCTX_TRANSPORT="nats://localhost:4222?readers=clickhouse"
    llmctx migrate --transport
    CLICKHOUSE_URL=http://localhost:8123/default python clickhouse.py

`llmctx ship` stores the rows in PostgreSQL meanwhile. A frame leaves the broker when both have stored it. Any number of
these may run. Rows that ClickHouse can never take are set aside in the stream LLMCTX_REFUSED_CLICKHOUSE.

The same class is a destination of its own, with journal, ledger and dead letters, where there is no broker:
`CallLog(destination=ClickHouse("http://localhost:8123/default"))`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError

from llmctx.core.columns import ColumnKind, ColumnSpec
from llmctx.core.record import DEFAULT_TABLE, SPECS, CallRecord
from llmctx.delivery import Destination, Failure, Row
from llmctx.delivery.broker.shipper import BrokerShipper
from llmctx.settings import load

TYPES: Final = {
    ColumnKind.UUID: "UUID",
    ColumnKind.TIME: "DateTime64(6, 'UTC')",
    ColumnKind.COUNT: "Int32",
    ColumnKind.NUMBER: "Float64",
    ColumnKind.MONEY: "Decimal(18, 9)",
    ColumnKind.FLAG: "Bool",
}
"""Whatever else is a String, zstd'd: texts, ids, and JSON as text."""
CONFIG: Final = {"16", "60", "81", "192", "193", "194", "497", "516"}
"""Codes of ClickHouse: something is not set up right (no such table, column or database, no right, no user)."""
OF_A_ROW: Final = {"6", "26", "27", "33", "38", "41", "53", "69", "70", "72", "117", "131", "321", "349", "407"}
"""A value that it cannot take."""


class ClickHouse(Destination):
    """A table of ClickHouse in which a call that comes twice is one row, once parts are merged: read it with FINAL."""

    remedy = "let the user create and fill the table"

    def __init__(self, url: str, table: str = DEFAULT_TABLE) -> None:
        self._url, self._table = url, table
        parts = urlsplit(url)
        self.name = f"ClickHouse at {parts.hostname}:{parts.port or 8123}, {parts.path.strip('/') or 'default'}.{table}"
        self._client: Any = None

    async def prepare(self) -> bool:
        """Connect, create what is missing: the table, or columns that a newer version has."""
        if self._client is None:
            self._client = await asyncio.to_thread(
                clickhouse_connect.get_client, dsn=self._url, autogenerate_session_id=False, send_receive_timeout=30
            )
        return await asyncio.to_thread(self._create)

    def _create(self) -> bool:
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._table} ({', '.join(map(_column, SPECS))}) ENGINE = ReplacingMergeTree "
            "PARTITION BY toYYYYMM(created_at) ORDER BY (toStartOfHour(created_at), call_id)"
        )
        there = {row[0] for row in self._client.query(f"DESCRIBE TABLE {self._table}").result_rows}
        missing = [spec for spec in SPECS if spec.name not in there]
        for spec in missing:
            self._client.command(f"ALTER TABLE {self._table} ADD COLUMN IF NOT EXISTS {_column(spec)}")
        return bool(missing)

    @property
    def is_stale(self) -> bool:
        """Return True where there is no connection yet."""
        return self._client is None

    async def store(self, rows: Sequence[Row]) -> None:
        """Insert a block: all rows of it, or none."""
        values = [_values(row) for row in rows]
        names = [spec.name for spec in SPECS]
        await asyncio.to_thread(
            self._client.insert, self._table, values, column_names=names, settings={"async_insert": 0}
        )

    def classify(self, problem: BaseException) -> Failure:
        """Return what ClickHouse's code means; without one it is an outage, which loses nothing."""
        words = (str(problem) or type(problem).__name__).strip().splitlines()[0][:300]
        found = re.search(r"\bcode:? ?(\d+)", str(problem), re.IGNORECASE)
        code = found[1] if found else type(problem).__name__
        if isinstance(problem, DataError) or code in OF_A_ROW:
            return Failure("poison", code, words, type(problem).__name__)
        if code in CONFIG:
            return Failure("config", code, words)
        return Failure("transient" if isinstance(problem, ClickHouseError) and found else "reconnect", code, words)

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)

    def detach(self) -> None:
        """Forget the connection of another loop, or of the parent."""
        self._client = None


def _column(spec: ColumnSpec) -> str:
    type_ = TYPES.get(spec.kind, "String")
    codec = " CODEC(ZSTD(3))" if spec.kind in (ColumnKind.SNAPSHOT, ColumnKind.JSON) else ""
    return f"{spec.name} {type_ if spec.required else f'Nullable({type_})'}{codec}"


def _values(row: Row) -> list[Any]:
    record: CallRecord = row.record
    return [row.attributes_json if spec.name == "attributes" else getattr(record, spec.name) for spec in SPECS]


async def main() -> None:
    """Ship until SIGTERM or Ctrl-C, then store and acknowledge what is held."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    shipper = BrokerShipper(ClickHouse(os.environ["CLICKHOUSE_URL"]), load(), reader="clickhouse")
    await shipper.run(stopping)
    print(f"{shipper.written} rows of {shipper.frames} frames, {shipper.refused} set aside")


if __name__ == "__main__":
    asyncio.run(main())
