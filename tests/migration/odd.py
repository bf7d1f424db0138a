"""Tables as teams really have them: odd rows, a name that wants quotes, a schema and an owner of their own, columns of
which llmctx knows nothing; and, where asked for, a trigger, a view, policies.

Nothing of `filling.py` is used: what one of the two forgets the other may know. `Clinic` is the application that goes
on beside: prepared statements, a transaction that takes its time, readers, each with a note of what it had to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import asyncpg
from sqlalchemy import make_url

OWNER, APPLICATION, READER = "clinic_owner", "clinic_app", "clinic_reader"
LONG_S: Final = 5.0
SHAPES: Final = ("numbers", "texts", "unkeyed")


@dataclass(frozen=True)
class Odd:
    """One of the three shapes, of that name."""

    shape: str
    schema: str = "agents"
    name: str = "ClinicCalls"

    @property
    def table(self) -> str:
        return f'{self.schema}."{self.name}"'

    @property
    def child(self) -> str:
        return f"{self.schema}.clinic_call_messages"

    @property
    def settings(self) -> dict[str, str]:
        return {"table": self.name, "db_schema": self.schema}

    @property
    def numbers(self) -> bool:
        return self.shape == "numbers"

    @property
    def keyed(self) -> bool:
        return self.shape != "unkeyed"

    @property
    def time(self) -> str:
        return "timestamp" if self.keyed else "timestamptz"

    def made(self) -> list[str]:
        """What made it."""
        roles = [
            f"DO $$ BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object THEN END $$"
            for name in (OWNER, APPLICATION, READER)
        ]
        return [
            *roles,
            f"CREATE SCHEMA {self.schema} AUTHORIZATION {OWNER}",
            f"GRANT USAGE ON SCHEMA {self.schema} TO {APPLICATION}, {READER}",
            f"CREATE TYPE {self.schema}.band AS ENUM ('low', 'high')",
            f"""CREATE TABLE {self.table} (
                id {"serial" if self.numbers else "varchar(50)"} PRIMARY KEY,
                call_id varchar(64) NOT NULL {"UNIQUE" if self.keyed else ""}, trace_id varchar(64),
                session_id varchar(64), conversation_id varchar(64),
                user_id {"integer" if self.numbers else "varchar(50)"}, agent_key varchar(100),
                model varchar(100) NOT NULL, temperature numeric(4,2), top_p numeric(4,2), max_tokens integer,
                prompt_tokens integer, completion_tokens integer, total_tokens integer, latency_ms integer,
                success boolean, error_code varchar(50), error_message text, prompt_snapshot text,
                response_snapshot text, created_at {self.time} NOT NULL, finished_at {self.time},
                "Weird Column" integer, tags text[], meta jsonb NOT NULL DEFAULT '{{}}', "select" text,
                tenant uuid NOT NULL DEFAULT gen_random_uuid(), price {self.schema}.band,
                tokens integer GENERATED ALWAYS AS (prompt_tokens + completion_tokens) STORED,
                note text CHECK (note <> 'never')
            ) WITH (fillfactor = 90)""",
            f'CREATE INDEX ON {self.table} ("Weird Column") WHERE tags IS NOT NULL',
            f"CREATE INDEX ON {self.table} (lower(session_id))",
            f"""CREATE TABLE {self.child} (id bigserial PRIMARY KEY,
                call_id varchar(64) NOT NULL {f"REFERENCES {self.table} (call_id)" if self.keyed else ""},
                role varchar(20), content text)""",
            f"CREATE INDEX ON {self.child} (call_id)",
            *[f"ALTER TABLE {one} OWNER TO {OWNER}" for one in (self.table, self.child)],
            f"ALTER TYPE {self.schema}.band OWNER TO {OWNER}",
            f"GRANT INSERT, SELECT, UPDATE ON {self.table}, {self.child} TO {APPLICATION}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {self.schema} TO {APPLICATION}",
            f"GRANT SELECT ON {self.table} TO {READER}",
        ]

    def dressed(self) -> list[str]:
        """What stands in the way of partitions, and not of an adoption."""
        changed = f"{self.schema}.changed()"
        return [
            f"""CREATE FUNCTION {changed} RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW."Weird Column" := coalesce(NEW."Weird Column", 7); RETURN NEW; END $$""",
            f"CREATE TRIGGER changes BEFORE INSERT OR UPDATE ON {self.table} FOR EACH ROW EXECUTE FUNCTION {changed}",
            f"CREATE VIEW {self.schema}.costs AS SELECT * FROM {self.table}",
            f"CREATE MATERIALIZED VIEW {self.schema}.users AS SELECT user_id, count(*) FROM {self.table} GROUP BY 1",
            f"ALTER TABLE {self.table} ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY everybody ON {self.table} TO {APPLICATION}, {READER} USING (true) WITH CHECK (true)",
        ]

    def filled(self, rows: int) -> list[str]:
        """Statements that fill it, with as many odd rows as a team finds in years."""
        text = r"""(ARRAY['', '  ', 'o''brien', 'a "quoted" id', 'zoë 🦓', E'tab\tand\nline', '100%', 'back\slash',
            ';DROP TABLE x;--', '日本', 'ﬀ', E'a\u0301', 'NULL', repeat('é', 50)])[1 + n % 14]"""
        odd_id = f"CASE WHEN n % 11 = 0 THEN NULL WHEN n % 13 = 0 THEN {text} ELSE 's-' || n % (%s) END"
        user = (
            "CASE WHEN n % 3 = 0 THEN NULL WHEN n % 1001 = 0 THEN -2147483648 ELSE n % 700 END"
            if self.numbers
            else f"CASE WHEN n % 3 = 0 THEN NULL WHEN n % 17 = 0 THEN {text} ELSE 'u-' || n % 700 END"
        )
        # upper and lower case, without hyphens, and what was never a uuid
        call = """CASE n % 5 WHEN 0 THEN upper(md5(n::text)::uuid::text) WHEN 1 THEN md5(n::text)
            WHEN 2 THEN md5(n::text)::uuid::text WHEN 3 THEN 'chatcmpl-' || n || '-''é' ELSE n::text END"""
        if not self.keyed:
            call = f"CASE WHEN n % 50 = 0 THEN '' WHEN n % 50 < 4 THEN 'again-' || n / 200 ELSE {call} END"
        when = (
            "CASE WHEN n % 5003 = 1 THEN '0001-01-01'::timestamp WHEN n % 5003 = 2 THEN '9999-12-31 23:59:59.999999' "
            "WHEN n % 5003 = 3 THEN now() + interval '70 days' WHEN n % 5003 = 4 THEN now() + interval '30 years' "
            "WHEN n % 5003 = 5 THEN 'infinity' WHEN n % 5003 = 6 THEN '-infinity' "
            f"ELSE now() - interval '3 years' * (1 - n / {max(1, rows)}::float8) END::{self.time}"
        )
        maybe = "CASE WHEN n % 4 = 0 THEN NULL ELSE {} END".format
        key, value = ("", "") if self.numbers else ("id, ", "'row ' || n, ")
        fill = f"""INSERT INTO {self.table} ({key}call_id, trace_id, session_id, conversation_id, user_id, agent_key,
              model, temperature, top_p, max_tokens, prompt_tokens, completion_tokens, total_tokens, latency_ms,
              success, error_code, error_message, prompt_snapshot, response_snapshot, created_at, finished_at,
              "Weird Column", tags, meta, "select", price, note)
            SELECT {value}{call}, {maybe("'t-' || n / 3")}, {odd_id.replace("%s", "n / 20 + 1")},
              {maybe("'c-' || n / 40")}, {user}, {maybe("'agent ''' || n % 9")},
              CASE WHEN n % 999 = 0 THEN '' ELSE 'gpt-' || n % 6 END, {maybe("-99.99 + n % 199")}, {maybe("1")},
              {maybe("-1")}, {maybe("n % 3000")}, {maybe("n % 700")}, {maybe("2147483647")}, {maybe("n % 9000")},
              (ARRAY[true, true, true, false, NULL])[1 + n % 5], {maybe("'E''' || n % 5")}, {maybe("'bad 🔥'")},
              CASE WHEN n % 4 = 0 THEN NULL WHEN n % 25013 = 9 THEN repeat('ab''"\\' || n, 100000)
                ELSE '[{{"role": "user", "content": "it''s \\ ' || repeat(md5(n::text), 12) || '"}}]' END,
              {maybe("'not json: ' || repeat(md5(n::text), 5)")}, {when}, {maybe("now()")},
              n, CASE WHEN n % 7 = 0 THEN ARRAY['a', NULL, 'b''c'] END, jsonb_build_object('n', n),
              {maybe("'select'")}, (ARRAY['low', 'high', NULL])[1 + n % 3]::{self.schema}.band, {maybe("'note'")}
            FROM generate_series(1, {rows}) AS n"""
        child = (
            f"INSERT INTO {self.child} (call_id, role, content) SELECT call_id, 'user', 'hello' FROM {self.table} "
            'WHERE "Weird Column" % 3 = 0'
        )
        return [fill, child]


def plain(url: str, user: str | None = None) -> str:
    """`url` as asyncpg has it, perhaps for another role."""
    made = make_url(url).set(drivername="postgresql")
    return (made if user is None else made.set(username=user)).render_as_string(hide_password=False)


async def furnish(url: str, odd: Odd, rows: int, *, dressed: bool = False) -> None:
    connection = await asyncpg.connect(plain(url))
    try:
        for statement in [*odd.made(), *odd.filled(rows), *(odd.dressed() if dressed else [])]:
            await connection.execute(statement)
    finally:
        await connection.close()


async def sum_of(url: str, odd: Odd, columns: list[str], *, where: str = "true") -> tuple[Any, ...]:
    """Rows, and a sum over all that stands in them."""
    connection = await asyncpg.connect(plain(url))
    try:
        row = ", ".join(f'"{name}"' for name in columns)
        digest = f"sum(('x' || substr(md5(ROW({row})::text), 1, 15))::bit(60)::bigint)::text"
        found = await connection.fetchrow(f"SELECT count(*), {digest} FROM {odd.table} WHERE {where}")
        return tuple(found)
    finally:
        await connection.close()


async def columns_of(url: str, odd: Odd) -> list[str]:
    connection = await asyncpg.connect(plain(url))
    try:
        question = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 ORDER BY attnum"
        return [row[0] for row in await connection.fetch(question, odd.table)]
    finally:
        await connection.close()


class Clinic:
    """The application: 200 rows a second by two connections, a slow transaction, two readers."""

    def __init__(self, url: str, odd: Odd, *, rate: float = 200.0) -> None:
        self._url, self._odd, self._rate = url, odd, rate
        self.written: list[str] = []
        self.failed: list[str] = []
        self.reads = 0
        self.waits: list[tuple[float, str]] = []
        """The longest, and what waited."""
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Clinic:
        self._tasks = [asyncio.create_task(one) for one in (*(self._write() for _ in range(2)), self._dawdle(),
                                                            self._read(), self._read())]  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    @property
    def longest_s(self) -> float:
        return max(self.waits, default=(0.0, ""))[0]

    async def _waited(self, what: str, statement: Any) -> Any:
        began = time.monotonic()
        try:
            return await statement
        finally:
            took = time.monotonic() - began
            self.waits = sorted([*self.waits, (took, what)])[-5:]

    async def _pause(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    def _insert(self) -> str:
        names = "call_id, session_id, user_id, prompt_snapshot, created_at, model, temperature, success"
        user = "$3::integer" if self._odd.numbers else "$3::varchar"
        more, value = ("", "") if self._odd.numbers else (", id", ", $6")
        return (
            f"INSERT INTO {self._odd.table} ({names}{more}) VALUES ($1, $2, {user}, $4, $5, 'old way', 0.5, true"
            f"{value}) RETURNING id"
        )

    def _values(self) -> list[Any]:
        now = datetime.now(UTC)
        number = len(self.written)
        user = number % 500 if self._odd.numbers else f'u"{number % 500}'
        return [
            str(uuid4()).upper(), f"s'{number}", user, '"p"' * 500,
            now.replace(tzinfo=None) if self._odd.keyed else now, *([] if self._odd.numbers else [uuid4().hex]),
        ]  # fmt: skip

    async def _write(self) -> None:
        connection = await asyncpg.connect(plain(self._url, APPLICATION))
        insert = await connection.prepare(self._insert())
        message = await connection.prepare(f"INSERT INTO {self._odd.child} (call_id, role) VALUES ($1, 'user')")
        due = time.monotonic()
        while not await self._pause(max(0.0, (due := due + 2 / self._rate) - time.monotonic())):
            values = self._values()
            try:
                assert await self._waited("insert", insert.fetchval(*values)) is not None
                await self._waited("message", message.fetch(values[0]))
            except asyncpg.PostgresError as problem:
                self.failed.append(f"{type(problem).__name__}: {problem}")
            else:
                self.written.append(values[0])
        await connection.close()

    async def _dawdle(self) -> None:
        """A transaction of five seconds now and then."""
        connection = await asyncpg.connect(plain(self._url, APPLICATION))
        while not await self._pause(2):
            values = self._values()
            try:
                async with connection.transaction():
                    insert = connection.fetchval(self._insert(), *values)
                    key = await self._waited("insert in a long transaction", insert)
                    await self._pause(LONG_S)
                    update = f"UPDATE {self._odd.table} SET finished_at = created_at WHERE id = $1"
                    await self._waited("update in a long transaction", connection.execute(update, key))
            except asyncpg.PostgresError as problem:
                self.failed.append(f"{type(problem).__name__}: {problem}")
            else:
                self.written.append(values[0])
        await connection.close()

    async def _read(self) -> None:
        connection = await asyncpg.connect(plain(self._url, READER))
        newest = await connection.prepare(
            f"SELECT call_id, user_id, prompt_snapshot FROM {self._odd.table} WHERE lower(session_id) = $1 LIMIT 20"
        )
        while not await self._pause(0.02):
            try:
                await self._waited("read", newest.fetch(f"s-{self.reads % 1000}"))
            except asyncpg.PostgresError as problem:
                self.failed.append(f"{type(problem).__name__}: {problem}")
            self.reads += 1
        await connection.close()
