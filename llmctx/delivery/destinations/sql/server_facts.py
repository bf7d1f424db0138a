"""Facts about a server: which database it is, and what it may lose; asked when the table is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from llmctx.core.endpoint import Endpoint
from llmctx.delivery.destinations.sql.connection import Connection
from llmctx.settings import Settings
from llmctx.storage import database_identity as identities
from llmctx.storage import durability
from llmctx.storage.durability import Risk

_PLACE: Final = identities.LOOK.replace(":versions", "$1").replace(":table", "$2")  # as the driver itself names them
_ALL: Final = (
    f"SELECT * FROM ({_PLACE}) AS place, ({identities.LOOK_AT_HOME}) AS home, "  # noqa: S608  constants
    f"({durability.LOOK.replace(':table', '$2')}) AS durability"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a database beside its table."""

    endpoint: Endpoint
    risks: tuple[Risk, ...] = ()


async def fetch_server_facts(pool: Connection, settings: Settings, name: str) -> Facts:
    """Return what the database, which is called `name`, says of itself. Raise what it says to that."""
    async with pool.connection() as connection:
        session = await pool.session(connection)
        if session is None:
            return Facts(Endpoint(name, await _ids_of_sqlite(connection, settings)))
        names = identities.names_for(settings)
        given = (names["versions"], names["table"])
        if (found := await session.try_fetch_row(_ALL, *given)) is None:
            return Facts(Endpoint(name, identities.ids_of(await session.fetch_row(_PLACE, *given), None)))
        return Facts(Endpoint(name, identities.ids_of(found, found["home"])), durability.risks_of(found))


async def _ids_of_sqlite(connection: AsyncConnection, settings: Settings) -> frozenset[str]:
    number = (await connection.exec_driver_sql("PRAGMA application_id")).scalar_one()
    return identities.ids_of_sqlite(int(number), settings.table)
