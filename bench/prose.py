"""Finished rows as applications make them: 2 kB of prompt, of which 700 bytes are one of 20 system prompts, and an
answer of 1 kB. The texts are phrases of the documentation, so that they compress as English does; no two rows that are
compressed together are alike.
"""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Final
from uuid import UUID

import uuid_utils

from llmctx.core.record import CallRecord

ROOT: Final = Path(__file__).resolve().parent.parent
_SYSTEM, _PROMPT, _ANSWER = 700, 1200, 950
_SYSTEMS: Final = 20
_LONGEST_PHRASE: Final = 6
_DISTINCT: Final = 1000
"""Texts; a frame has two hundred rows at most."""


@cache
def _words() -> list[str]:
    pages = sorted(path for path in (ROOT / "docs").rglob("*.md") if "zh" not in path.parts)
    return re.findall(r"[A-Za-z]+[,.;]?", " ".join(page.read_text() for page in pages))


def _text(draw: random.Random, size: int) -> str:
    words, text = _words(), ""
    while len(text) < size:
        at = draw.randrange(len(words) - _LONGEST_PHRASE)
        text += " ".join(words[at : at + draw.randint(1, _LONGEST_PHRASE)]) + " "
    return text[:size]


@cache
def _texts() -> list[tuple[str, str]]:
    """Return prompts with their answers, as JSON."""
    draw = random.Random(0)
    systems = [_text(draw, _SYSTEM) for _ in range(_SYSTEMS)]
    return [
        (
            json.dumps(
                [{"role": "system", "content": draw.choice(systems)}, {"role": "user", "content": _text(draw, _PROMPT)}]
            ),
            json.dumps([{"role": "assistant", "content": _text(draw, _ANSWER)}]),
        )
        for _ in range(_DISTINCT)
    ]


def records(count: int) -> list[CallRecord]:
    """Return so many finished rows."""
    draw = random.Random(count)
    return [_record(draw, number, *_texts()[number % _DISTINCT]) for number in range(count)]


def _record(draw: random.Random, number: int, prompt: str, response: str) -> CallRecord:
    now = datetime.now(UTC)
    return CallRecord(
        call_id=UUID(int=uuid_utils.uuid7().int),
        created_at=now,
        finished_at=now,
        model="gpt-4o-mini",
        trace_id=f"{draw.getrandbits(128):032x}",
        session_id=f"s-{number % 97}",
        user_id=f"u-{number % 31}",
        temperature=0.2,
        max_tokens=512,
        prompt_tokens=draw.randint(400, 900),
        completion_tokens=draw.randint(100, 300),
        total_tokens=932,
        latency_ms=draw.randint(300, 3000),
        success=True,
        prompt_snapshot=prompt,
        response_snapshot=response,
        thread_id=f"t-{number % 211}",
        node="agent",
        provider="openai",
        run_id=UUID(int=uuid_utils.uuid7().int),
        parent_run_id=UUID(int=uuid_utils.uuid7().int),
        status="ok",
        identity_source="context",
        usage_source="provider",
        finish_reason="stop",
        cost_usd=Decimal("0.000194"),
        streamed=False,
        response_model="gpt-4o-mini-2024-07-18",
        response_id=f"chatcmpl-{draw.getrandbits(96):024x}",
        cost_source="genai-prices",
        attributes={"tags": ["seq:step:1"]},
    )
