"""The calendar that a team's partitions follow, and what is lacking in it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from llmctx.storage.retention.partitions import Partition, calendar_ends, months_without_partition

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def parts(zone: str, *firsts: str) -> list[Partition]:
    """Partitions from each of these local days to the next one."""
    return [Partition(name, at(name, zone), at(after, zone)) for name, after in pairwise(firsts)]


def lacking(found: list[Partition], ahead: int = 1) -> list[tuple[datetime, datetime]]:
    return [(gap.first, gap.after_last) for gap in months_without_partition(found, NOW, ahead)]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "Asia/Kolkata", "America/New_York"])
def test_months_go_on_where_they_end(zone: str) -> None:
    """At the team's own midnight, whatever that is called in UTC."""
    there = parts(zone, "2026-09-01", "2026-10-01", "2026-11-01", "2026-12-01")
    assert lacking(there, 2) == [
        (at("2026-12-01", zone), at("2027-01-01", zone)), (at("2027-01-01", zone), at("2027-02-01", zone)),
    ]  # fmt: skip
    assert calendar_ends(there, NOW) is None
    (december, _) = months_without_partition(there, NOW, 2)
    assert december.partition("t") == "t_p2026_12"


def test_nothing_is_made_where_zones_differ() -> None:
    """From a winter's midnights it cannot be told when the summer begins."""
    winter = parts("Europe/Berlin", "2025-12-01", "2026-01-01", "2026-02-01", "2026-03-01")
    gaps = months_without_partition(winter, datetime(2026, 2, 15, tzinfo=UTC), 3)
    assert [(gap.first, gap.after_last) for gap in gaps] == []
    assert calendar_ends(winter, datetime(2026, 2, 15, tzinfo=UTC), 3) == winter[-1].upper
    assert calendar_ends(winter, datetime(2025, 12, 15, tzinfo=UTC), 1) is None
    a_year = parts("Europe/Berlin", *(f"2026-{month:02}-01" for month in range(5, 13)))
    assert lacking(a_year, 2)[-1] == (at("2027-01-01", "Europe/Berlin"), at("2027-02-01", "Europe/Berlin"))


def test_gaps_are_filled_and_no_more() -> None:
    """Between two partitions exactly what lies between them."""
    there = [*parts("UTC", "2026-11-01", "2026-12-01"), *parts("UTC", "2026-12-10", "2027-01-01")]
    assert lacking(there) == [(at("2026-12-01"), at("2026-12-10"))]
    assert str(months_without_partition(there, NOW, 1)[0]) == "2026-12-01 00:00 to 2026-12-10 00:00 UTC"


def test_quarters_weeks_and_days() -> None:
    """Steps are as long as the last one was."""
    assert lacking(parts("UTC", "2026-07-01", "2026-10-01", "2027-01-01")) == [(at("2027-01-01"), at("2027-04-01"))]
    assert lacking(parts("UTC", "2026-11-09", "2026-11-16", "2026-11-23")) == [(at("2026-11-23"), at("2026-11-30"))]
    to_the_end = [f"2026-11-{day}" for day in range(18, 31)] + ["2026-12-01"]
    assert lacking(parts("UTC", *to_the_end), 11) == [(at("2026-12-01"), at("2026-12-02"))]  # no month begins there
    assert lacking(parts("UTC", "2026-11-19", "2026-11-20", "2026-11-21")) == [(at("2026-11-21"), at("2026-11-22"))]


def test_what_follows_no_calendar_is_left_to_its_team() -> None:
    """But for what lies between two of its partitions."""
    begin = NOW - timedelta(hours=5, minutes=7)
    odd = [
        Partition("a", begin, NOW + timedelta(hours=7)),
        Partition("b", NOW + timedelta(hours=9), NOW + timedelta(hours=11, minutes=3)),
    ]
    assert lacking(odd) == [(NOW + timedelta(hours=7), NOW + timedelta(hours=9))]
    assert calendar_ends(odd, NOW) == odd[-1].upper


def test_a_table_without_partitions_gets_months() -> None:
    """Of UTC, from the present one on."""
    assert lacking([Partition("d", is_default=True)]) == [
        (at("2026-11-01"), at("2026-12-01")), (at("2026-12-01"), at("2027-01-01")),
    ]  # fmt: skip


CHANGES = {  # where the clocks change at midnight: what PostgreSQL takes the day's beginning for
    "it is passed by": ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00"),
    "it comes twice": ("America/Havana", "2026-11-01", "2026-11-01T05:00"),
    "it comes twice, at the end of a month": ("Atlantic/Azores", "2026-10-25", "2026-10-25T01:00"),
}


@pytest.mark.parametrize(("zone", "day", "begins"), CHANGES.values(), ids=CHANGES)
def test_days_on_which_there_is_no_midnight_or_two(zone: str, day: str, begins: str) -> None:
    """Partitions of days go on over them, where a year of them tells the zone."""
    first = date.fromisoformat(day) - timedelta(days=400)
    days = [(first + timedelta(days=number)).isoformat() for number in range(401)]
    there = parts(zone, *days[:-1], days[-1])
    there[-1] = Partition(there[-1].name, there[-1].lower, at(begins))
    gaps = months_without_partition(there, at(begins) - timedelta(hours=6), 2)
    after = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
    assert (gaps[0].first, gaps[0].after_last) == (at(begins), at(after, zone))
    assert len(gaps) == 2


def test_what_differs_within_a_year_tells_the_zone() -> None:
    """Days of Berlin's winter are those of Lagos as well, but not those of the summer before."""
    days = [(date(2025, 4, 1) + timedelta(days=number)).isoformat() for number in range(363)]
    there = parts("Europe/Berlin", *days)
    gaps = months_without_partition(there, at("2026-03-28T12:00"), 3)
    berlin = [at(f"2026-03-{day}", "Europe/Berlin") for day in (29, 30, 31)]
    assert [(gap.first, gap.after_last) for gap in gaps][:2] == list(pairwise(berlin))
