"""Which backup gets where: against a plain simulation of where PostgreSQL would stop, over made-up histories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Switch
from engine.recovery.candidates import Choice, Miss, attempt, choose
from engine.recovery.facts import Base, Mark, Point, Row
from engine.recovery.target import EndOfArchive, Immediate, LsnTarget, Target, TimeTarget, XidTarget
from engine.wal.gaps import Archive, Key, without_contradicted

SIZE = 1 << 20
STEP = SIZE // 8


class Made:
    """Facts of a made-up archive; `indexed` tells which rows the index knows."""

    def __init__(self, marks: Sequence[Mark], indexed: set[int], last: int) -> None:
        self.all, self.indexed, self.last = marks, indexed, last

    def row(self, key: Key) -> Row | None:
        return self.walk(key) if key[1] in self.indexed else None

    def walk(self, key: Key) -> Row:
        here = self.marks(key)
        times, xids = [m.time for m in here], [m.xid for m in here]
        return Row(
            *key,
            max(times, default=None),
            min(times, default=None),
            min(xids, default=None),
            max(xids, default=None),
            Lsn((key[1] + 1) * SIZE - 64),
            Lsn((key[1] + 1) * SIZE),
        )

    def marks(self, key: Key) -> Sequence[Mark]:
        return [m for m in self.all if m.lsn // SIZE == key[1]]

    def first_record(self, key: Key, lsn: Lsn) -> Lsn | None:
        return lsn

    def points(self, keys: Iterable[Key]) -> Sequence[Point]:
        return []


def test_a_long_unindexed_archive_is_not_read_whole() -> None:
    marks = [Mark(Lsn(n * SIZE + 8), 100 + n, n * 10) for n in range(2, 2002)]
    read: set[int] = set()

    class Counted(Made):
        def marks(self, key: Key) -> Sequence[Mark]:
            read.add(key[1])
            return super().marks(key)

    base = Base("b", 1, Lsn(2 * SIZE), Lsn(2 * SIZE + 100), pg_time(21))
    found = choose(
        TimeTarget(pg_time(10005)), [base], "latest", Archive(SIZE, {1: range(2, 2002)}), Counted(marks, set(), 2001)
    )
    assert isinstance(found, Choice) and found.kept == marks[998] and found.dropped == marks[999]
    assert len(read) < 100 and "not indexed" in found.notes[0]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Made, list[Base], Archive]:
    count = draw(st.integers(1, 24))
    times, now = [], 1000
    for _ in range(count):
        now += draw(st.integers(-3, 40))
        times.append(now)
    marks = [Mark(Lsn(2 * SIZE + i * STEP + 8), 100 + i, time, draw(st.booleans())) for i, time in enumerate(times)]
    last = 2 + (count * STEP) // SIZE
    segments = set(range(2, last + 1)) - draw(st.sets(st.integers(3, max(3, last)), max_size=1))
    bases = []
    for number, at in enumerate(draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3, unique=True))):
        start = 2 * SIZE + at * STEP
        stop = start + draw(st.integers(1, 3)) * (STEP // 2) + 16
        ended = max([t for m, t in zip(marks, times, strict=True) if m.lsn < stop], default=1000)
        bases.append(Base(f"b{number}", 1, Lsn(start), Lsn(stop), pg_time(ended + draw(st.integers(-2, 5)))))
    bases.sort(key=lambda b: (b.ended, b.id), reverse=True)
    indexed = draw(st.sets(st.integers(2, last)))
    return Made(marks, indexed, last), bases, Archive(SIZE, {1: sorted(segments)})


targets: st.SearchStrategy[Target] = st.one_of(
    st.builds(TimeTarget, st.integers(900, 2000).map(pg_time), st.booleans()),
    st.builds(XidTarget, st.integers(95, 130), st.booleans()),
    st.builds(LsnTarget, st.integers(2 * SIZE, 6 * SIZE).map(Lsn), st.booleans()),
)


def stop_of(target: Target, base: Base, made: Made, segments: Sequence[int]) -> Mark | None:
    """Return the transaction at which PostgreSQL would stop from this backup, None when it runs out of WAL first."""
    for mark in made.all:
        if mark.lsn < base.start:
            continue
        if any(n not in segments for n in range(base.start // SIZE, mark.lsn // SIZE + 1)):
            return None
        if isinstance(target, XidTarget) and mark.xid == target.xid:
            return mark
        if isinstance(target, TimeTarget):
            at = int((target.at - pg_time(0)).total_seconds() * 1_000_000 + 0.5)
            if mark.time > at or (mark.time == at and not target.inclusive):
                return mark
    return None


@given(histories(), targets)
def test_a_choice_is_where_postgresql_stops_and_never_too_new(
    made: tuple[Made, list[Base], Archive], target: Target
) -> None:
    facts, bases, archive = made
    found = choose(target, bases, "latest", archive, facts)
    segments = archive.segments[1]
    if not isinstance(found, Choice):
        for base in bases:
            if isinstance(target, LsnTarget):
                continue
            stop = stop_of(target, base, facts, segments)
            sound = stop is not None and stop.lsn >= base.stop
            if isinstance(target, TimeTarget):
                sound = sound and base.ended <= target.at
            assert not sound, f"{base.id} would have got there"
        return
    base = found.run.base
    assert all(n in segments for n in range(base.start // SIZE, found.stop_segment + 1))
    if isinstance(target, LsnTarget):
        assert target.lsn >= base.stop
        return
    stop = stop_of(target, base, facts, segments)
    assert stop is not None and stop.lsn >= base.stop
    assert found.stop_segment == stop.lsn // SIZE
    if isinstance(target, TimeTarget):
        assert base.ended <= target.at
        assert found.dropped == stop
        kept = [m for m in facts.all if base.stop <= m.lsn < stop.lsn and m.commit]
        assert found.kept == (kept[-1] if kept else None)


def test_the_end_of_a_standbys_backup_is_noticed_at_the_record_behind_it() -> None:
    base = Base("b", 1, Lsn(2 * SIZE), Lsn(4 * SIZE), pg_time(21), exact=True, stop_timeline=1)
    ends_there, goes_on = Archive(SIZE, {1: [2, 3]}), Archive(SIZE, {1: [2, 3, 4]})
    made = Made([], {2, 3, 4}, 4)
    short = attempt(Immediate(), base, "current", ends_there, made)
    assert isinstance(short, Miss) and short.kind == "unreachable" and "record behind" in short.why
    found = attempt(Immediate(), base, "current", goes_on, made)
    assert isinstance(found, Choice) and found.stop_segment == 4
    primary = attempt(Immediate(), replace(base, exact=False), "current", ends_there, made)
    assert isinstance(primary, Choice) and primary.stop_segment == 3


def test_a_lost_history_is_missed_as_long_as_anything_of_its_timeline_is_there() -> None:
    """Also damaged WAL tells of it; another cluster's does not."""
    base, facts = Base("b", 2, Lsn(2 * SIZE), Lsn(2 * SIZE + 100), pg_time(21)), Made([], set(), 8)
    segments = {2: list(range(2, 9)), 3: [7]}
    for reason, opening in (("corrupt: x", 0), ("only 3/7.gz is there", 0), ("alien: x", 1)):
        archive = Archive(SIZE, segments, invalid={(3, 7): reason})
        found = choose(EndOfArchive(), [base], "current", archive, facts, opens=True)
        assert isinstance(found, Choice) == opening, reason
        assert opening or "00000003.history is missing" in found[0].why  # type: ignore[index]


def test_a_bad_history_between_the_backups_timeline_and_the_one_that_is_followed_is_not_needed() -> None:
    base, facts = Base("b", 1, Lsn(2 * SIZE), Lsn(2 * SIZE + 100), pg_time(21)), Made([], set(), 8)
    histories = {3: (Switch(1, Lsn(5 * SIZE), "x"),)}
    archive = Archive(SIZE, {1: [2, 3, 4], 3: [5, 6, 7, 8]}, histories, bad_histories={2: "00000002.history is empty"})
    for choice in ("3", "latest"):
        found = choose(EndOfArchive(), [base], choice, archive, facts, opens=True)
        assert isinstance(found, Choice) and found.run.lineage.timeline == 3, found
    both = {3: (Switch(1, Lsn(5 * SIZE), "x"), Switch(2, Lsn(6 * SIZE), "x")), 2: (Switch(1, Lsn(7 * SIZE), "x"),)}
    strange = without_contradicted(Archive(SIZE, {1: [2, 3, 4], 2: [5], 3: [6, 7, 8]}, both))
    found = choose(EndOfArchive(), [base], "3", strange, facts, opens=True)
    assert not isinstance(found, Choice) and "00000002.history says" in found[0].why


def test_a_history_that_recovery_will_ask_for_must_be_readable() -> None:
    """Those of older timelines than the backup's are asked for by nobody; newer ones where the archive ends, and, up to
    the first that is missing, before it opens for writing."""
    base = Base("b", 2, Lsn(2 * SIZE), Lsn(2 * SIZE + 100), pg_time(21))
    segments = {2: list(range(2, 9))}
    facts = Made([], set(), 8)
    for number, pausing, opening, ending in ((1, 1, 1, 1), (2, 0, 0, 0), (3, 1, 0, 0), (9, 1, 1, 0)):
        archive = Archive(SIZE, segments, bad_histories={number: f"{number:08X}.history cannot be read"})
        target = LsnTarget(Lsn(4 * SIZE))
        assert isinstance(choose(target, [base], "current", archive, facts), Choice) == pausing, number
        assert isinstance(choose(target, [base], "current", archive, facts, opens=True), Choice) == opening, number
        assert isinstance(choose(EndOfArchive(), [base], "current", archive, facts), Choice) == ending, number
    archive = Archive(SIZE, segments, bad_histories={3: "00000003.history cannot be read"})
    assert not isinstance(choose(target, [base], "latest", archive, facts), Choice)
