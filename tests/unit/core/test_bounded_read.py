"""Files that users name may be anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctx.core.bounded_read import read_text
from llmctx.core.errors import ConfigError
from llmctx.delivery.pricing import load_file
from llmctx.ops.backfill.undo import lines
from llmctx.storage.table import call_log_table

ENDLESS = Path("/dev/zero")


def test_as_much_as_it_may_have_is_read(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(file, 6, "utf-8-sig") == "abc"
    with pytest.raises(OSError, match="File too large"):
        read_text(file, 5)


def test_a_device_that_never_ends_is_no_price_file_and_no_undo_file() -> None:
    """Reading it would take all memory there is."""
    with pytest.raises(ConfigError, match=r"LLMCTX_PRICE_FILE /dev/zero: File too large\."):
        load_file(ENDLESS)
    with pytest.raises(ConfigError, match="is not an undo file"):
        list(lines(ENDLESS, call_log_table()))
