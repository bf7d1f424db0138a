"""Fixtures of the tests in this folder."""

from __future__ import annotations

from uuid import uuid4

import pytest


@pytest.fixture
def prefix() -> str:
    """Of the keys of this test."""
    return f"test:{uuid4().hex}:"
