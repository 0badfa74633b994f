"""The reach of replay: the published cases one by one, then against a plain simulation of PostgreSQL's own search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Lineage, Switch
from engine.wal.gaps import (
    Archive,
    EndKind,
    NoLineage,
    core_range,
    history_holes,
    live_segments,
    newest_from,
    newest_readable,
    reach,
    resolve,
    without_contradicted,
)

MB = 1 << 20
SIZE = 16 * MB


def archive(
    segments: Mapping[int, Sequence[int]], forks: Mapping[int, tuple[int, Lsn]] | None = None, size: int = SIZE
) -> Archive:
    """Return an archive; `forks` gives each timeline's parent and where it left it."""
    histories: dict[int, tuple[Switch, ...]] = {}
    for timeline, (parent, lsn) in sorted((forks or {}).items()):
        histories[timeline] = (*histories.get(parent, ()), Switch(parent, lsn, "test"))
    return Archive(size, {t: sorted(n) for t, n in segments.items()}, histories)


def line(a: Archive, timeline: int) -> Lineage:
    return Lineage.of(timeline, a.histories.get(timeline, ()))


FORK_IN_5 = {2: (1, Lsn(5 * SIZE + 100))}
FORK_AT_6 = {2: (1, Lsn(6 * SIZE))}


@pytest.mark.parametrize(
    ("segments", "forks", "timeline", "first", "last", "kind", "missing"),
    [
        pytest.param({1: range(1, 10)}, {}, 1, 2, 9, "open_end", (10, None), id="V1 whole"),
        pytest.param({1: [1, 2, 3, 4, 5, 7, 8]}, {}, 1, 2, 5, "hole", (6, 6), id="V3 hole"),
        pytest.param({1: [1, 2, 3, 4, 8]}, {}, 1, 2, 4, "hole", (5, 7), id="a hole of three"),
        pytest.param({1: range(2, 10)}, {}, 1, 2, 9, "open_end", (10, None), id="V5 before the start"),
        pytest.param({1: range(3, 10)}, {}, 1, 2, None, "hole", (2, 2), id="V6 start missing"),
        pytest.param({1: range(1, 5), 2: range(5, 10)}, FORK_IN_5, 2, 2, 9, "open_end", (10, None), id="V14 fork"),
        pytest.param({1: range(1, 6), 2: range(6, 10)}, FORK_IN_5, 2, 2, 4, "branch_hazard", (5, 5), id="V16 hazard"),
        pytest.param({1: range(1, 5), 2: range(6, 10)}, FORK_IN_5, 2, 2, 4, "hole", (5, 5), id="V17 fork missing"),
        pytest.param({1: range(1, 9), 2: range(5, 7)}, FORK_IN_5, 2, 2, 6, "open_end", (7, None), id="V18 dead tail"),
        pytest.param({1: range(1, 9), 2: range(5, 7)}, FORK_IN_5, 1, 2, 8, "open_end", (9, None), id="V18 current"),
        pytest.param(
            {1: range(1, 6), 2: range(6, 9)}, FORK_AT_6, 2, 2, 8, "open_end", (9, None), id="fork on a border"
        ),
        pytest.param({1: range(1, 5), 2: range(6, 9)}, FORK_AT_6, 2, 2, 4, "hole", (5, 5), id="parent incomplete"),
        pytest.param({1: range(1, 6)}, FORK_IN_5, 2, 2, 4, "branch_hazard", (5, 5), id="promoted, nothing archived"),
        pytest.param({10: range(0x10, 0x20)}, {}, 10, 0x11, 0x1F, "open_end", (0x20, None), id="V24 timeline A"),
    ],
)
def test_vectors(
    segments: dict[int, Sequence[int]],
    forks: dict[int, tuple[int, Lsn]],
    timeline: int,
    first: int,
    last: int | None,
    kind: EndKind,
    missing: tuple[int, int | None],
) -> None:
    found = archive(segments, forks)
    far = reach(found, line(found, timeline), first)
    assert (far.last, far.end_kind, far.missing_first, far.missing_last) == (last, kind, *missing)


def test_an_invalid_segment_ends_the_reach() -> None:
    bad = Archive(SIZE, {1: range(1, 10)}, {}, {(1, 6): "wrong size"})
    far = reach(bad, Lineage.of(1), 2)
    assert (far.last, far.end_kind, far.missing_first, far.reason) == (5, "invalid_segment", 6, "wrong size")


def test_borders_of_logs_are_not_gaps() -> None:
    for size in (MB, SIZE, 64 * MB, 1024 * MB):
        per_log = (1 << 32) // size
        found = archive({1: range(per_log - 2, per_log + 3)}, size=size)
        far = reach(found, Lineage.of(1), per_log - 2)
        assert (far.last, far.end_kind) == (per_log + 2, "open_end")


def test_core_range_takes_the_end_as_exclusive() -> None:
    assert core_range(2 * SIZE + 40, 3 * SIZE, SIZE) == (2, 2)
    assert core_range(2 * SIZE + 40, 3 * SIZE + 1, SIZE) == (2, 3)


def test_latest_stops_at_a_missing_history() -> None:
    found = archive({1: range(1, 9)}, {3: (1, Lsn(5 * SIZE))})
    assert history_holes(found) == [2]
    chosen = resolve("latest", 1, 2 * SIZE, found)
    assert isinstance(chosen, Lineage) and chosen.timeline == 1


def test_a_backup_after_the_fork_is_off_the_branch() -> None:
    found = archive({1: range(1, 9), 2: range(5, 9)}, FORK_IN_5)
    refused = resolve("latest", 1, 7 * SIZE, found)
    assert isinstance(refused, NoLineage) and refused.kind == "backup_off_branch"
    own = resolve("current", 1, 7 * SIZE, found)
    assert isinstance(own, Lineage) and own.timeline == 1


def test_a_timeline_that_does_not_exist() -> None:
    refused = resolve("7", 1, 2 * SIZE, archive({1: range(1, 9)}))
    assert isinstance(refused, NoLineage) and refused.kind == "no_such_timeline"


def test_a_timeline_of_another_branch() -> None:
    found = archive({}, {2: (1, Lsn(5 * SIZE)), 3: (1, Lsn(6 * SIZE))})
    refused = resolve("2", 3, 7 * SIZE, found)
    assert isinstance(refused, NoLineage) and refused.kind == "backup_off_branch"


def postgres_reads(segments: Mapping[int, set[int]], lineage: Lineage, first: int, size: int) -> list[tuple[int, int]]:
    """Return the files that XLogFileReadAnyTLI takes, one segment after the other, until it finds none."""
    current, number, taken = 0, first, []
    while True:
        for timeline in lineage.candidates(number, size):
            if timeline < current:
                return taken
            if number in segments.get(timeline, ()):
                taken.append((timeline, number))
                current, number = timeline, number + 1
                break
        else:
            return taken


@st.composite
def archives(draw: st.DrawFn) -> tuple[Archive, int]:
    forks: dict[int, tuple[int, Lsn]] = {}
    place = 1
    for timeline in range(2, draw(st.integers(1, 4)) + 1):
        place += draw(st.integers(0, 3))
        forks[timeline] = (timeline - 1, Lsn(place * SIZE + draw(st.sampled_from([0, 1, 8000]))))
    newest = max(forks, default=1)
    segments = {t: draw(st.sets(st.integers(0, 12))) for t in range(1, newest + 1)}
    return archive({t: sorted(numbers) for t, numbers in segments.items()}, forks), newest


@given(archives(), st.integers(0, 6))
def test_what_is_reached_is_what_postgresql_would_read_and_right(made: tuple[Archive, int], first: int) -> None:
    found, newest = made
    lineage = line(found, newest)
    far = reach(found, lineage, first)
    read = postgres_reads({t: set(n) for t, n in found.segments.items()}, lineage, first, found.segment_size)
    canonical = [key for key in read if key[0] == lineage.canonical(key[1], found.segment_size)]
    good = 0
    while good < len(read) and canonical[good : good + 1] == read[good : good + 1]:
        good += 1
    assert far.last == (read[good - 1][1] if good else None)
    if good < len(read):
        # PostgreSQL would go on with a file of an older timeline: it must never look like the end of the archive.
        assert far.end_kind == "branch_hazard"
    elif far.end_kind == "open_end":
        assert not list(live_segments(found, lineage, (far.last if far.last is not None else first) + 1))


def test_what_shows_that_wal_went_on_makes_a_hole_of_an_end() -> None:
    """A later file that is there and unusable, and a branch that left in a later segment."""
    spoilt = Archive(SIZE, {1: [1, 2, 3, 5]}, invalid={(1, 5): "corrupt: x"})
    assert (reach(spoilt, line(spoilt, 1), 1).end_kind, reach(spoilt, line(spoilt, 1), 1).last) == ("hole", 3)
    alien = Archive(SIZE, {1: [1, 2, 3, 5]}, invalid={(1, 5): "alien: x"})
    assert reach(alien, line(alien, 1), 1).end_kind == "open_end"
    left = archive({1: range(1, 5), 2: range(6, 8)}, FORK_AT_6)
    assert reach(left, line(left, 1), 1).end_kind == "hole"
    without = archive({1: range(1, 5)}, FORK_AT_6)
    assert reach(without, line(without, 1), 1).end_kind == "open_end"


def test_the_history_that_is_followed_tells_how_far_its_parents_wal_went() -> None:
    """Also where nothing of the timeline itself is there; of the segment in which it began, it has its own copy."""
    for forks, missing in ((FORK_AT_6, (4, 5)), (FORK_IN_5, (4, 4))):
        short = archive({1: range(1, 4)}, forks)
        far = reach(short, line(short, 2), 1)
        assert (far.last, far.end_kind, far.missing_first, far.missing_last) == (3, "hole", *missing)
    for forks, last in ((FORK_AT_6, 5), (FORK_IN_5, 4)):
        there = archive({1: range(1, last + 1)}, forks)
        assert reach(there, line(there, 2), 1).end_kind == "open_end"


def test_a_history_that_the_archive_contradicts_is_a_bad_one() -> None:
    found = without_contradicted(archive({1: range(1, 7), 2: range(5, 9)}, FORK_AT_6))
    assert (
        found.histories == {} and "00000002.history says that timeline 2 began at 0/6000000" in found.bad_histories[2]
    )
    assert without_contradicted(archive({1: range(1, 7), 2: range(5, 9)}, FORK_IN_5)).bad_histories == {}


def test_a_history_is_contradicted_by_its_own_timelines_wal_only() -> None:
    found = archive({1: range(1, 7), 2: range(4, 9)}, FORK_AT_6)
    for reason in ("alien: x", "misplaced: x", "corrupt: x", "wrong timeline: x"):
        strange = replace(found, invalid={(2, 4): reason, (2, 5): reason})
        assert bool(without_contradicted(strange).histories) == reason.startswith(("alien", "misplaced")), reason


def test_a_timeline_that_began_before_the_one_that_it_comes_from() -> None:
    """As after a recovery along timeline 2 to a moment before that began: PostgreSQL looks for the newest that has."""
    second = (Switch(1, Lsn(6 * SIZE + 100), "x"),)
    third = (*second, Switch(2, Lsn(4 * SIZE + 100), "x"))
    found = Archive(SIZE, {1: [2, 3, 4, 5, 6], 2: [6, 7], 3: [4, 5, 6]}, {2: second, 3: third})
    lineage = resolve("3", 3, 5 * SIZE, found, stop=(3, 6 * SIZE))
    assert isinstance(lineage, Lineage)
    assert [lineage.canonical(number, SIZE) for number in (3, 4, 5, 6, 7)] == [1, 3, 3, 3, 3]
    assert (reach(found, lineage, 5).end_kind, reach(found, line(found, 3), 2).last) == ("open_end", 6)
    assert isinstance(resolve("3", 1, 5 * SIZE, found), NoLineage)
    assert isinstance(resolve("3", 1, 4 * SIZE, found), Lineage)


def test_latest_goes_past_a_history_that_nobody_can_read() -> None:
    """PostgreSQL asks whether it is there, and reads the newest."""
    forks = archive({}, {3: FORK_IN_5[2], 4: FORK_IN_5[2]}).histories
    found = Archive(SIZE, {}, forks, bad_histories={2: "x", 5: "x"})
    assert (newest_from(found, 1), newest_readable(found, 1)) == (5, 4)
    assert history_holes(found) == []
