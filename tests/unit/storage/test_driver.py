"""What asyncpg makes of a URL, before it connects."""

from __future__ import annotations

import inspect
from pathlib import Path

import asyncpg
import pytest

from llmctx.core.errors import ConfigError, DatabaseUnavailable
from llmctx.settings import load
from llmctx.storage.engine import reading

knows_services = pytest.mark.skipif(
    "service" not in inspect.signature(asyncpg.connect).parameters, reason="this asyncpg knows no services"
)


@knows_services
@pytest.mark.parametrize("text", [None, "", "[shop]\nhost=nowhere.invalid\n"], ids=["no file", "empty", "another"])
async def test_a_service_that_is_not_there_is_named(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq refuses it as well; asyncpg alone would connect to the default host."""
    file = tmp_path / "services"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with pytest.raises(ConfigError, match=r"there is no service 'shp' in the service file"):
        async with reading(load(database_url="postgresql://?service=shp")):
            pass


@knows_services
@pytest.mark.parametrize("url", ["postgresql:///?service=shop", "postgresql:///shop"])
async def test_a_service_says_where_the_database_is(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the URL or by PGSERVICE."""
    (tmp_path / "services").write_text("[shop]\nhost=nowhere.invalid\nport=6432\ndbname=shop\nuser=app\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "shop")
    monkeypatch.setenv("PGUSER", "app")
    settings = load(database_url=url)
    with pytest.raises(DatabaseUnavailable, match=r"Name or service not known|nodename|resolution"):
        async with reading(settings):
            pass
