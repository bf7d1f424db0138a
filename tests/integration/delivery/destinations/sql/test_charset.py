"""Databases that are not kept in UTF-8: every row is stored, and says what could not be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from llmctx.core.record import CLEANED, DEFAULT_TABLE
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.conftest import execute
from tests.kit.rows import PATIENCE, query, record, writing

HERE = {
    "LATIN1": "caf\u00e9",
    "EUC_CN": "\u4f60\u597d\u2015",
    "EUC_JP": "\u65e5\u672c",
    "WIN1252": "5 \u20ac",
    "KOI8R": "\u0434\u0430",
}


@pytest.fixture(params=HERE)
def encoded(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A migrated database of an encoding, and a text that it can store."""
    name = f"llmctx_test_{uuid4().hex[:12]}"
    how = f"ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    execute(postgres_url, f'CREATE DATABASE "{name}" {how}')
    try:
        url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
        migrate.upgrade(load(database_url=url))
        yield url, HERE[request.param]
    finally:
        execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_characters_that_the_encoding_does_not_know(encoded: tuple[str, str]) -> None:
    """Ids stay two, JSON says the same, other texts and attributes say what was changed; what fits is untouched."""
    url, fine = encoded
    strange = "\U0001f993"
    rows = [
        record(
            user_id=strange, session_id=fine, model=fine, prompt_snapshot=json.dumps(strange + fine, ensure_ascii=False)
        ),
        record(user_id="\U0001f994", session_id=fine, error_message=f"a{strange}", attributes={f"k{strange}": fine}),
        record(user_id=fine, session_id=fine, prompt_snapshot="{}"),
    ]
    async with writing(url) as one:
        for row in rows:
            assert one.submit(row)
        assert await one.drain(PATIENCE) == 0, one.last_error
        assert (one.written, one.quarantined) == (3, 0), one.rejected_rows
    names = "user_id, session_id, model, prompt_snapshot, error_message, attributes"
    first, second, third = await query(url, f"SELECT {names} FROM {DEFAULT_TABLE} ORDER BY call_id")
    assert first.user_id.startswith("?~")
    assert second.user_id.startswith("?~")
    assert first.user_id != second.user_id
    assert first.session_id == first.model == third.user_id == fine
    assert json.loads(first.prompt_snapshot) == strange + fine
    assert first.attributes[CLEANED] == ["user_id"]
    assert second.error_message == "a?"
    assert second.attributes == {"k?": fine, CLEANED: ["user_id", "error_message", "attributes"]}
    assert third.attributes is None
