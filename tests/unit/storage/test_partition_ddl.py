"""Months: their bounds and the names of their partitions."""

from __future__ import annotations

from datetime import UTC, datetime

from llmctx.storage.partition_ddl import Month, partition_name


def test_months_pass_the_end_of_a_year() -> None:
    month = Month.after(datetime(2026, 11, 29, 17, 5, tzinfo=UTC), 2)
    assert str(month) == "2027-01"
    assert month.partition("calls") == partition_name("calls", month.first) == "calls_p2027_01"
    assert month.bounds() == ("'2027-01-01 00:00:00+00'", "'2027-02-01 00:00:00+00'")
    assert month.bounds(naive=True) == ("'2027-01-01 00:00:00'", "'2027-02-01 00:00:00'")


def test_a_part_of_a_month_is_named_by_where_it_begins() -> None:
    part = Month(datetime(2026, 11, 29, 17, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    assert part.partition("calls") == "calls_p2026_11_29_1700"
    assert str(part) == "2026-11-29 17:00 to 2026-12-01 00:00 UTC"
