"""Which backup gets to a target, on which timelines and how far: pure rules. "Cannot" is a Miss, with a reason.

Source: PostgreSQL's recoveryStopsBefore, recoveryStopsAfter, CheckRecoveryConsistency and PerformWalRecovery
(src/backend/access/transam/xlogrecovery.c): a time stops before the first commit or abort in WAL order that is later
(inclusive) or not earlier (exclusive) than it; an xid by equality; an LSN at the first record that starts there or
later; a name at the first restore point of that name. A stop before consistency is fatal, and so is no stop at all;
after the very record that makes a backup consistent it may stop.
A backup newer than the target time goes unnoticed: choosing it is prevented here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from engine.postgres.clock import pg_microseconds, pg_time
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_before, segment_of
from engine.postgres.timeline import Lineage
from engine.recovery.facts import Base, Facts, Mark, Point, Row
from engine.recovery.target import (
    EndOfArchive,
    Immediate,
    LsnTarget,
    NameTarget,
    Target,
    TimeTarget,
    XidTarget,
)
from engine.wal.gaps import (
    Archive,
    Key,
    NoLineage,
    Reach,
    core_range,
    live_segments,
    newest_from,
    reach,
    resolve,
)

_MOST_READ = 64
"""Segments without a row in the index that are read one after the other in search of a time."""

MissKind = Literal["unusable", "off_branch", "bad_history", "too_new", "unreachable"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one backup can be replayed to on one lineage."""

    base: Base
    lineage: Lineage
    reach: Reach
    """From the backup's first segment on; its core is whole."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backup and a lineage that get to the target, and what is around it."""

    run: Run
    stop_segment: int
    """The last segment that replay reads to stop where it should."""
    kept: Mark | None = None
    """The last commit that stays."""
    dropped: Mark | None = None
    """The first commit that does not."""
    point: Point | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a backup does not get to the target."""

    kind: MissKind
    base: Base
    why: str
    run: Run | None = None
    """How far it would get, when it can be replayed at all."""


Try = Choice | Miss


def open_run(base: Base, choice: str, archive: Archive, *, opens: bool = False) -> Run | Miss:
    """Return what a backup can be replayed to when recovery follows `choice`, or why it cannot be replayed, or, when it
    `opens` for writing where it stops, why it cannot do that."""
    if base.unusable:
        return Miss("unusable", base, base.unusable)
    stop = (base.stop_timeline, int(base.stop)) if base.exact else None
    lineage = resolve(choice, base.timeline, base.start, archive, stop=stop)
    if isinstance(lineage, NoLineage):
        return Miss("off_branch", base, lineage.why)
    unreadable = _asked_for(base, lineage, archive, newer=opens or choice == "latest")
    if unreadable:
        return Miss("bad_history", base, unreadable)
    first, last = core_range(base.start, base.stop, archive.segment_size)
    far = reach(archive, lineage, first)
    if far.last is None or far.last < last:
        return Miss("unusable", base, core_reason(base, archive, lineage, far))
    return Run(base, lineage, _as_far_as_known(far, lineage, archive))


def _asked_for(base: Base, lineage: Lineage, archive: Archive, *, newer: bool) -> str:
    """Return why a history is bad that a recovery will need beside that of its own timeline, "" when there is none.

    PostgreSQL fetches those `newer` than the timeline that it follows, up to the first that is missing, for `latest`
    and before it opens for writing (findNewestTimeLine in timeline.c). That one must not have been lost. Those of the
    timelines between the backup's and that it only keeps (restoreTimeLineHistoryFiles): `cellarman-wal get` takes a
    bad one of them for absent. One that can be read its own timeline's segments are held against.
    """
    passed = (span.timeline for span in lineage.spans[:-1] if span.timeline >= base.timeline)
    by_itself = next((archive.bad_histories[each] for each in passed if each in archive.contradicted), "")
    if by_itself or not newer:
        return by_itself
    last = newest_from(archive, lineage.timeline)
    bad = (archive.bad_histories.get(number, "") for number in range(lineage.timeline + 1, last + 1))
    return next(filter(None, bad), "") or lost_history(lineage, archive)


def lost_history(lineage: Lineage, archive: Archive) -> str:
    """Return that the timeline which recovery along a lineage would begin has WAL already and only lacks its history,
    "" when that is not so: what was committed on it would be taken for never done."""
    timeline = newest_from(archive, lineage.timeline) + 1
    numbers = archive.segments.get(timeline, ())
    own = next((n for n in numbers if not archive.invalid.get((timeline, n), "").startswith("alien")), None)
    if own is None:
        return ""
    return (
        f"{timeline:08X}.history is missing, and {archive.name(timeline, own)} shows that there is a timeline"
        f" {timeline}: PostgreSQL would not follow it, and call itself {timeline} again"
    )


def _as_far_as_known(far: Reach, lineage: Lineage, archive: Archive) -> Reach:
    """Return how far replay gets, its end open only where no history that cannot be read may tell of more."""
    unread = [why for number, why in sorted(archive.bad_histories.items()) if number > lineage.timeline]
    return replace(far, end_kind="bad_history", reason=unread[0]) if unread and far.end_kind == "open_end" else far


def core_reason(base: Base, archive: Archive, lineage: Lineage, far: Reach) -> str:
    """Say which segment a backup lacks to be consistent."""
    at = far.missing_first if far.missing_first is not None else segment_of(base.start, archive.segment_size)
    name = archive.name(lineage.canonical(at, archive.segment_size), at)
    state = f"is not usable ({far.reason})" if far.end_kind == "invalid_segment" else "is not in the archive"
    return f"backup {base.id} needs WAL from {base.start} to {base.stop}, and {name} {state}"


def attempt(target: Target, base: Base, timeline: str, archive: Archive, facts: Facts, *, opens: bool = False) -> Try:
    """Return how this backup gets to the target, and `opens` for writing there, or why it does not."""
    run = open_run(base, timeline, archive, opens=opens)
    if isinstance(run, Miss):
        return run
    match target:
        case TimeTarget():
            return _by_time(target, run, archive, facts)
        case LsnTarget():
            return _by_lsn(target, run, archive, facts)
        case XidTarget():
            return _by_xid(target, run, archive, facts)
        case NameTarget():
            return _by_name(target, run, archive, facts)
        case Immediate():
            return _at_once(run, archive, facts)
        case EndOfArchive():
            return _to_the_end(run, archive, facts)


def choose(
    target: Target, bases: Sequence[Base], timeline: str, archive: Archive, facts: Facts, *, opens: bool = False
) -> Choice | list[Miss]:
    """Return the first of `bases` (newest first) that gets to the target, and `opens` for writing there; or all misses
    in the order tried."""
    misses: list[Miss] = []
    for base in bases:
        tried = attempt(target, base, timeline, archive, facts, opens=opens)
        if isinstance(tried, Choice):
            return tried
        misses.append(tried)
        if tried.kind == "unreachable" and tried.run and not _older_may_differ(tried.run, bases, target):
            break
    return misses


def _older_may_differ(run: Run, bases: Sequence[Base], target: Target) -> bool:
    """Tell whether an older backup could get further: only where it may follow other timelines, or for a transaction
    or name that may lie before this backup."""
    if isinstance(target, XidTarget | NameTarget):
        return True
    return any(base.timeline != run.base.timeline for base in bases)


def keys(run: Run, archive: Archive, first: int, last: int | None = None) -> Iterator[Key]:
    """Yield the segments of a run from `first` to `last`, at most to the end of its reach."""
    end = run.reach.last if last is None else min(last, run.reach.last or 0)
    return live_segments(archive, run.lineage, first, end)


def marks_from(run: Run, archive: Archive, facts: Facts, start: int, wanted: Callable[[Mark], bool]) -> Iterator[Mark]:
    """Yield the commits and aborts at or after the LSN `start` that are wanted, in WAL order, to the run's end."""
    for key in keys(run, archive, segment_of(start, archive.segment_size)):
        yield from (mark for mark in facts.marks(key) if mark.lsn >= start and wanted(mark))


def core_maximum(run: Run, archive: Archive, facts: Facts) -> int | None:
    """Return the latest time, not before the backup's end, of a commit or abort that is replayed before consistency."""
    base = run.base
    first, last = core_range(base.start, base.stop, archive.segment_size)
    ended = pg_microseconds(base.ended)
    times: list[int] = []
    for key in keys(run, archive, first, last):
        row = facts.row(key)
        if row is not None and (row.max_time is None or row.max_time < ended):
            continue
        times += [m.time for m in facts.marks(key) if base.start <= m.lsn < base.stop and m.time >= ended]
    return max(times, default=None)


def latest_time(run: Run, archive: Archive, facts: Facts) -> int | None:
    """Return the latest time of a commit or abort after the backup's stop, to the end of the run."""
    return max(_times_after(run, archive, facts), default=None)


def _times_after(run: Run, archive: Archive, facts: Facts) -> Iterator[int]:
    """Yield the latest time of each segment after the backup's stop, newest segment first."""
    stop_segment = segment_of(run.base.stop, archive.segment_size)
    for key in reversed(list(keys(run, archive, stop_segment))):
        if key[1] == stop_segment:
            yield from (mark.time for mark in facts.marks(key) if mark.lsn >= run.base.stop)
            continue
        row = facts.row(key) or facts.walk(key)
        if row.max_time is not None:
            yield row.max_time


def last_commit(run: Run, archive: Archive, facts: Facts) -> Mark | None:
    """Return the last commit in WAL order after the backup's stop."""
    stop = run.base.stop
    for key in reversed(list(keys(run, archive, segment_of(stop, archive.segment_size)))):
        row = facts.row(key)
        if row is not None and row.max_time is None:
            continue
        for mark in reversed(facts.marks(key)):
            if mark.lsn >= stop and mark.commit:
                return mark
    return None


def last_record(run: Run, archive: Archive, facts: Facts) -> Lsn | None:
    """Return where the last record of the run starts."""
    for key in reversed(list(keys(run, archive, segment_before(run.base.stop, archive.segment_size)))):
        row = facts.row(key) or facts.walk(key)
        if row.last_record is not None:
            return row.last_record
    return None


def _by_time(target: TimeTarget, run: Run, archive: Archive, facts: Facts) -> Try:
    base, at = run.base, pg_microseconds(target.at)
    inside = core_maximum(run, archive, facts)
    if base.ended > target.at:
        return Miss("too_new", base, f"backup {base.id} ended at {_show(base.ended)}, after the target", run)
    if inside is not None and (inside > at or (inside == at and not target.inclusive)):
        why = f"backup {base.id} holds a transaction that ended at {_show(pg_time(inside))}, not before the target"
        return Miss("too_new", base, why, run)

    def later(time: int) -> bool:
        return time > at or (time == at and not target.inclusive)

    if not any(later(time) for time in _times_after(run, archive, facts)):
        return Miss("unreachable", base, _why_no_later(run, archive, facts), run)
    return _around(run, archive, facts, lambda mark: later(mark.time), later)


def _why_no_later(run: Run, archive: Archive, facts: Facts) -> str:
    """Say why no commit after the target proves it: PostgreSQL would replay all and then fail."""
    latest = latest_time(run, archive, facts)
    known = (
        f"the last transaction that can be replayed ended at {_show(pg_time(latest))}"
        if latest is not None
        else f"no transaction ended after backup {run.base.id} in the WAL that can be replayed"
    )
    return f"{known}; {why_it_ends(run, archive)}"


def why_it_ends(run: Run, archive: Archive) -> str:
    """Say what ends a run."""
    far = run.reach
    last = archive.name(run.lineage.canonical(far.last or 0, archive.segment_size), far.last or 0)
    if far.missing_first is None or far.end_kind == "open_end":
        return f"{last} is the last segment of the archive"
    if far.end_kind == "bad_history":
        return f"{last} is the last segment, and whether its timeline went on is not known: {far.reason}"
    name = archive.name(far.timeline, far.missing_first)
    if far.end_kind == "minimal":
        return (
            f"the server ran with wal_level = minimal from {far.reason} on, in {name}: PostgreSQL replays no backup"
            " past that, only those that were taken later"
        )
    if far.end_kind == "invalid_segment":
        return f"{name} is not usable: {far.reason}"
    if far.end_kind == "branch_hazard":
        return (
            f"{name} is missing, and PostgreSQL would take the file of an older timeline in its place, "
            "with transactions that never happened on this one"
        )
    until = far.missing_last
    many = (
        f"{name} to {archive.name(far.timeline, until)} are" if until not in (None, far.missing_first) else f"{name} is"
    )
    return f"{many} missing"


def _around(
    run: Run, archive: Archive, facts: Facts, stops: Callable[[Mark], bool], later: Callable[[int], bool]
) -> Choice:
    """Return the choice that stops before the first mark that `stops`, with the commits on both sides."""
    before: Mark | None = None
    held: Key | None = None
    row: Row | None
    everything = list(keys(run, archive, segment_of(run.base.stop, archive.segment_size)))
    unread = _passed_over(everything, facts, later)
    notes = (f"{len(unread)} segments are not indexed: their commits were taken to be in order",) if unread else ()
    for key in everything:
        if key in unread:
            continue
        row = facts.row(key)
        if row is not None and (row.max_time is None or not later(row.max_time)):
            held = key if row.max_time is not None else held
            continue
        kept: Mark | None = None
        for mark in facts.marks(key):
            if mark.lsn < run.base.stop:
                continue
            if stops(mark):
                kept = kept or _last_of(held, facts, run.base.stop) or before
                return Choice(run, key[1], kept, mark, notes=notes)
            kept = mark if mark.commit else kept
        if kept is not None:
            before, held = kept, None
    raise AssertionError("a later transaction was proven to exist")


def _passed_over(everything: Sequence[Key], facts: Facts, later: Callable[[int], bool]) -> set[Key]:
    """Return the segments before the first later time that need not be read, where the index lacks very many.

    Their commit times are taken to ascend, as they do but for moments: reading all of a long archive takes hours.
    """
    unknown = [key for key in everything if facts.row(key) is None]
    if len(unknown) <= _MOST_READ:
        return set()
    low, high = 0, len(unknown)
    while low < high:
        middle = (low + high) // 2
        latest = facts.walk(unknown[middle]).max_time
        if latest is not None and later(latest):
            high = middle
        else:
            low = middle + 1
    return set(unknown[: max(0, low - _MOST_READ // 2)])


def _last_of(key: Key | None, facts: Facts, stop: int) -> Mark | None:
    """Return the last commit of a segment at or after the LSN `stop`."""
    marks = facts.marks(key) if key is not None else ()
    return next((mark for mark in reversed(marks) if mark.commit and mark.lsn >= stop), None)


def _by_lsn(target: LsnTarget, run: Run, archive: Archive, facts: Facts) -> Try:
    base = run.base
    too_new = Miss("too_new", base, f"backup {base.id} is consistent only at {base.stop}, after the target", run)
    if target.lsn < (base.start if base.exact else base.stop):
        return too_new
    for key in keys(run, archive, segment_of(target.lsn, archive.segment_size)):
        row = facts.row(key) or facts.walk(key)
        if row.last_record is not None and row.last_record >= target.lsn:
            found = facts.first_record(key, target.lsn) or target.lsn
            if found < base.stop and not (target.inclusive and _ends_backup(found, run, archive, facts)):
                return too_new
            return Choice(run, key[1], *_commits_around(found, target.inclusive, run, archive, facts))
    end = last_record(run, archive, facts)
    known = f"the last record that can be replayed starts at {end}" if end is not None else "there is no later record"
    return Miss("unreachable", base, f"{known}; {why_it_ends(run, archive)}", run)


def _ends_backup(lsn: Lsn, run: Run, archive: Archive, facts: Facts) -> bool:
    """Tell whether the record at an LSN before a backup's stop is the last one before it: with that behind it, the
    backup is consistent."""
    for key in keys(
        run, archive, segment_of(lsn, archive.segment_size), segment_of(run.base.stop, archive.segment_size)
    ):
        following = facts.first_record(key, Lsn(lsn + 1))
        if following is not None:
            return following >= run.base.stop
    return False


def _commits_around(
    lsn: int, inclusive: bool, run: Run, archive: Archive, facts: Facts
) -> tuple[Mark | None, Mark | None]:
    """Return the last commit before the record at an LSN and the first one after it, looked for in the segments beside
    it only."""
    number = segment_of(lsn, archive.segment_size)
    near = list(keys(run, archive, max(segment_of(run.base.stop, archive.segment_size), number - 1), number + 1))
    commits = [m for key in near for m in facts.marks(key) if m.commit and m.lsn >= run.base.stop]
    kept = [m for m in commits if m.lsn < lsn or (inclusive and m.lsn == lsn)]
    dropped = [m for m in commits if m.lsn > lsn or (not inclusive and m.lsn == lsn)]
    return (kept[-1] if kept else None), (dropped[0] if dropped else None)


def _by_xid(target: XidTarget, run: Run, archive: Archive, facts: Facts) -> Try:
    base = run.base
    for key in keys(run, archive, segment_of(base.start, archive.segment_size)):
        row = facts.row(key)
        if row is not None and not (row.min_xid is not None and row.min_xid <= target.xid <= (row.max_xid or 0)):
            continue
        for mark in facts.marks(key):
            if mark.xid != target.xid or mark.lsn < base.start:
                continue
            if mark.lsn < base.stop:
                return Miss(
                    "too_new", base, f"transaction {mark.xid} ended inside backup {base.id}, at {mark.lsn}", run
                )
            kept, dropped = _commits_around(mark.lsn, target.inclusive, run, archive, facts)
            return Choice(run, key[1], kept, dropped)
    why = (
        f"no commit or abort of transaction {target.xid} was found between {base.start} and the end of the WAL "
        f"that can be replayed; {why_it_ends(run, archive)}"
    )
    return Miss("unreachable", base, why, run)


def _by_name(target: NameTarget, run: Run, archive: Archive, facts: Facts) -> Try:
    base = run.base
    everything = facts.points(keys(run, archive, segment_of(base.start, archive.segment_size)))
    found = [point for point in everything if point.name == target.name and point.lsn >= base.start]
    if not found:
        why = f"no restore point of this name was found after {base.start}; {why_it_ends(run, archive)}"
        return Miss("unreachable", base, why, run)
    first, *others = found
    if first.lsn < base.stop:
        return Miss("too_new", base, f"the restore point at {first.lsn} is inside backup {base.id}", run)
    kept, dropped = _commits_around(first.lsn, True, run, archive, facts)
    notes = [
        f"there is another restore point {p.name!r} at {p.lsn}, set {_show(p.at)}: PostgreSQL stops at the first one"
        for p in others
    ]
    number = segment_of(first.lsn, archive.segment_size)
    return Choice(run, number, kept, dropped, first, tuple(notes))


def _at_once(run: Run, archive: Archive, facts: Facts) -> Try:
    """Return where PostgreSQL notices that it is consistent: at the record behind the one that made it so.

    Where that one is not known, the end of the backup's last segment follows it.
    """
    base = run.base
    if not base.exact:
        return Choice(run, core_range(base.start, base.stop, archive.segment_size)[1])
    for key in keys(run, archive, segment_before(base.stop, archive.segment_size)):
        row = facts.row(key) or facts.walk(key)
        if row.last_record is not None and row.last_record >= base.stop:
            return Choice(run, key[1])
    why = f"backup {base.id} is consistent at {base.stop}, which PostgreSQL notices at the record behind that"
    return Miss("unreachable", base, f"{why}; {why_it_ends(run, archive)}", run)


def _to_the_end(run: Run, archive: Archive, facts: Facts) -> Try:
    if run.reach.end_kind != "open_end":
        kind: MissKind = "bad_history" if run.reach.end_kind == "bad_history" else "unreachable"
        return Miss(kind, run.base, why_it_ends(run, archive), run)
    return Choice(run, run.reach.last or 0, last_commit(run, archive, facts))


def _show(at: datetime) -> str:
    return at.isoformat(sep=" ")
