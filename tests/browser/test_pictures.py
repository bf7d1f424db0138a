"""The two pictures of README: a month of a clinic's calls, as the dashboard shows it.

`PICTURES=docs/pictures make test ARGS=tests/browser/test_pictures.py` takes them anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uuid_utils
from playwright.sync_api import Browser, sync_playwright

from llmctx.migrate import commands as migrate
from llmctx.settings import load
from llmctx.storage.engine import engine
from tests.browser.conftest import launched, serving
from tests.kit.calls import NOBODY, TABLE

PICTURES = os.environ.get("PICTURES")
MODELS = (
    ("gpt-5-mini", "openai", "0.0006"),
    ("claude-sonnet-4-5", "anthropic", "0.006"),
    ("llama-3.3-70b", "groq", None),
)
TALK = (
    ("My knee has been hurting since Sunday.", "I am sorry to hear that. Is it swollen, or warm?"),
    ("A little swollen, not warm.", "Then rest it and cool it. If it is no better on Friday, let us book a visit."),
    ("Please book one for Friday.", "Friday at 10:20 with Dr. Okafor. You will get a reminder the day before."),
)


def month(now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the calls of a month, more by day than by night, the same each time but for their date."""
    chance = random.Random(7)
    for number in range(420):
        start = now - timedelta(days=30 * chance.random(), hours=chance.random())
        user, agent = f"patient-{chance.randrange(60):02}", chance.choice(("triage", "booking"))
        said: list[dict[str, str]] = [{"role": "system", "content": "You are the assistant of a clinic. Be brief."}]
        for turn, (question, answer) in enumerate(TALK):
            model, provider, price = chance.choices(MODELS, (6, 3, 1))[0]
            at = start + timedelta(minutes=2 * turn)
            said.append({"role": "human", "content": question})
            ms, tokens = int(chance.lognormvariate(7, 0.6)), chance.randrange(300, 2600)
            failed, nobody = chance.random() < 0.03, chance.random() < 0.02
            yield {
                **NOBODY, "call_id": UUID(int=uuid_utils.uuid7(int(at.timestamp())).int), "created_at": at,
                "model": model, "finished_at": at + timedelta(milliseconds=ms), "provider": provider,
                "agent_key": agent, "node": agent,
                "session_id": None if nobody else f"visit-{number:04}", "user_id": None if nobody else user,
                "prompt_tokens": tokens, "completion_tokens": tokens // 4, "total_tokens": tokens + tokens // 4,
                "latency_ms": ms, "ttft_ms": ms // 4, "success": not failed, "status": "error" if failed else "ok",
                "error_code": "RateLimitError" if failed else None, "prompt_snapshot": json.dumps(said),
                "response_snapshot": None if failed else json.dumps({"role": "ai", "content": answer}),
                "cost_usd": None if price is None else Decimal(price) * tokens / 100,
                "identity_source": "none" if nobody else "context", "identity_reason": "no_scope" if nobody else None,
            }  # fmt: skip
            said.append({"role": "ai", "content": answer})


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the dashboard over the month."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('clinic') / 'calls.db'}"
    migrate.upgrade(load(database_url=url))

    async def insert() -> None:
        source = engine(load(database_url=url))
        async with source.begin() as connection:
            await connection.execute(TABLE.insert(), list(month(datetime.now(UTC))))
        await source.dispose()

    asyncio.run(insert())
    with serving(url) as address:
        yield address


@pytest.fixture(scope="module")
def browser(clinic: str) -> Iterator[Browser]:
    """One browser; it comes after the server, whose event loop it would stand in the way of."""
    with sync_playwright() as playwright:
        yield from launched(playwright)


def test_the_pictures_of_the_readme(browser: Browser, clinic: str) -> None:
    """What they show is there: five plots with their figures, and a session that reads as a conversation."""
    page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme="light")
    page.goto(f"{clinic}/usage?since=30d&tz=UTC", wait_until="networkidle")
    page.wait_for_function("() => document.querySelectorAll('.plot canvas').length === 5")
    shown = {"usage.png": page.screenshot()}
    page.goto(f"{clinic}/session?id=visit-0007&tz=UTC", wait_until="networkidle")
    assert page.locator(".turn").count() == 3
    assert page.locator(".from-user").count() == 3
    shown["session.png"] = page.screenshot()
    if PICTURES:
        for name, picture in shown.items():
            (Path(PICTURES) / name).write_bytes(picture)
