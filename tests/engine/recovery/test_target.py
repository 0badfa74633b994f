"""Text to target: every form that is understood, and every one that is refused with how to write it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UsageError
from engine.postgres.lsn import Lsn
from engine.recovery.target import (
    EndOfArchive,
    Immediate,
    LsnTarget,
    NameTarget,
    Target,
    TimeTarget,
    XidTarget,
    from_document,
    options,
    parse_target,
    parse_time,
    to_document,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-22 13:40:00+00", "2026-11-22 13:40:00"),
        ("2026-11-22T13:40:00Z", "2026-11-22 13:40:00"),
        ("2026-11-22 13:40+01:00", "2026-11-22 12:40:00"),
        ("2026-11-22 13:40:00.25-0530", "2026-11-22 19:10:00.250000"),
        ("2026-11-22 13:40:00 Europe/Paris", "2026-11-22 12:40:00"),
        ("2026-11-22 13:40:00 UTC", "2026-11-22 13:40:00"),
        ("2 hours ago", "2026-11-23 10:00:00"),
        ("1 day ago", "2026-11-22 12:00:00"),
    ],
)
def test_times(text: str, utc: str) -> None:
    assert parse_time(text, NOW).replace(tzinfo=None) == datetime.fromisoformat(utc)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-22 13:40:00", "13:40:00+00"),
        ("yesterday", "write it as"),
        ("2026-02-30 13:40:00Z", "write it as"),
        ("2026-11-22 13:40:00 Nowhere/Town", "write it as"),
        ("2026-11-22 13:40:00 ../../etc/passwd", "write it as"),
        ("2026-11-22 13:40:00+99", "write it as"),
        ("0001-01-01 00:00:00+14", "write it as"),
        ("2026-03-29 02:30:00 Europe/Paris", "+00"),
        ("2026-10-25 02:30:00 Europe/Paris", "2026-10-25 00:30:00.000000+00"),
        ("999999999 weeks ago", "write it as"),
        ("２026-11-22 13:40:00Z", "write it as"),
    ],
)
def test_what_is_no_time_shows_how_to_write_it(text: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text, NOW)
    assert shown in caught.value.now("")


@pytest.mark.parametrize(
    "arguments",
    [
        {"time": "2 hours ago", "lsn": "0/1"},
        {"name": "a", "immediate": True},
        {"exclusive": True},
        {"name": "a", "exclusive": True},
        {"lsn": "16/B374D84G"},
        {"xid": "-5"},
        {"xid": "2"},
        {"xid": "4294967296"},
        {"xid": "8589934594"},
        {"name": ""},
        {"name": "é" * 32},
    ],
)
def test_refused(arguments: dict[str, str | bool]) -> None:
    with pytest.raises(UsageError):
        parse_target(now=NOW, **arguments)  # type: ignore[arg-type]


def test_no_option_is_the_end() -> None:
    assert parse_target(now=NOW) == EndOfArchive()


targets: st.SearchStrategy[Target] = st.one_of(
    st.builds(TimeTarget, st.datetimes(min_value=datetime(1990, 1, 1), timezones=st.just(timezone.utc)), st.booleans()),
    st.builds(LsnTarget, st.integers(0, 2**64 - 1).map(Lsn), st.booleans()),
    st.builds(XidTarget, st.integers(3, 2**32 - 1), st.booleans()),
    st.builds(NameTarget, st.text(st.characters(codec="ascii", exclude_characters="\n\0"), min_size=1, max_size=63)),
    st.just(Immediate()),
    st.just(EndOfArchive()),
)


@given(targets)
def test_documents_and_options_come_back(target: Target) -> None:
    assert from_document(to_document(target)) == target
    words = options(target)
    given_ = dict(zip(words[::2], words[1::2], strict=False)) if words else {}
    again = parse_target(
        time=given_.get("--to-time"),
        lsn=given_.get("--to-lsn"),
        xid=given_.get("--to-xid"),
        name=given_.get("--to-name"),
        immediate="--to-immediate" in words,
        exclusive="--exclusive" in words,
        now=NOW + timedelta(days=1),
    )
    assert again == target
