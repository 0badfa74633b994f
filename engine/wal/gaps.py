"""What an archive holds, what it lacks, and how far recovery gets in it: pure rules over names, histories and LSNs.

Source: PostgreSQL's readTimeLineHistory, findNewestTimeLine (src/backend/access/transam/timeline.c) and
XLogFileReadAnyTLI, readRecoverySignalFile, validateRecoveryParameters (src/backend/access/transam/xlogrecovery.c).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_before, segment_name, segment_of
from engine.postgres.timeline import Lineage, Switch, first_segment, left_after

EndKind = Literal["open_end", "hole", "branch_hazard", "invalid_segment", "bad_history", "minimal"]
Key = tuple[int, int]
"""(timeline, segment number)."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Which segments and timeline histories an archive holds."""

    segment_size: int
    segments: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Timeline to its segment numbers, ascending, each once."""
    histories: Mapping[int, tuple[Switch, ...]] = field(default_factory=dict)
    invalid: Mapping[Key, str] = field(default_factory=dict)
    """Files that are there and satisfy nothing, with the reason."""
    bad_histories: Mapping[int, str] = field(default_factory=dict)
    """History files that cannot be read or are `contradicted`, with the reason."""
    minimal: Mapping[Key, Lsn] = field(default_factory=dict)
    """Segments in which WAL goes on with wal_level = minimal, and where: replay ends there with an error."""
    begins: frozenset[Key] = frozenset()
    """Segments in which backups begin: PostgreSQL never holds those against the one before."""
    contradicted: frozenset[int] = frozenset()
    """Timelines whose history can be read, and the archive's own segments speak against it."""

    def name(self, timeline: int, number: int) -> str:
        """Return the file name of a segment."""
        return segment_name(timeline, number, self.segment_size)

    def present(self, timeline: int, number: int) -> bool:
        """Tell whether the file is there, valid or not."""
        numbers = self.segments.get(timeline, ())
        at = bisect_left(numbers, number)
        return at < len(numbers) and numbers[at] == number

    def good(self, timeline: int, number: int) -> bool:
        """Tell whether the file is there and not known to be invalid."""
        return self.present(timeline, number) and (timeline, number) not in self.invalid


@dataclass(frozen=True, slots=True)
class Reach:
    """How far replay gets from some segment on, and what ends it."""

    last: int | None
    """The last segment that can be replayed; None when not even the first one can."""
    end_kind: EndKind
    missing_first: int | None = None
    missing_last: int | None = None
    next_present: int | None = None
    """The first good segment after what is missing, when there is one."""
    timeline: int = 0
    """The timeline whose file is missing or invalid."""
    reason: str = ""
    """Why an invalid segment is invalid, or a history cannot be used that may tell of WAL that goes on."""


@dataclass(frozen=True, slots=True)
class NoLineage:
    """Why recovery cannot follow the timeline that was asked for."""

    kind: Literal["no_such_timeline", "backup_off_branch", "bad_history"]
    why: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """The segments of one lineage that are asked for under one timeline's name: first to last (None is open)."""

    timeline: int
    first: int
    last: int | None


def stretches(lineage: Lineage, size: int) -> list[Stretch]:
    """Return the lineage as stretches of segments, oldest first; a timeline that ended in the segment that it began
    in is asked for in none."""
    found: list[Stretch] = []
    after: int | None = None
    for span in reversed(lineage.spans):
        first = segment_of(span.begin, size)
        if after is None or first < after:
            found.append(Stretch(int(span.timeline), first, None if after is None else after - 1))
            after = first
    return found[::-1]


def run_end(numbers: Sequence[int], start: int) -> int:
    """Return the last number of the unbroken run that begins at `start`, which is in `numbers`."""
    low = bisect_left(numbers, start)
    base, high = low, len(numbers) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if numbers[middle] - start == middle - base:
            low = middle
        else:
            high = middle - 1
    return numbers[low]


def reach(archive: Archive, lineage: Lineage, first: int, last: int | None = None) -> Reach:
    """Return how far a backup whose WAL begins in segment `first` can be replayed on the lineage, at most to `last`.

    A timeline's segments after its successor began are a dead tail: neither coverage nor the far side of a hole. In
    `first` itself a server of wal_level = minimal was restarted, with another one, before the backup began.
    """
    far = _unbroken(archive, lineage, first, last)
    on_the_way = [
        (number, timeline, lsn)
        for (timeline, number), lsn in archive.minimal.items()
        if first < number <= (far.last if far.last is not None else -1) and lineage.contains(timeline, lsn)
    ]
    if not on_the_way:
        return far
    at, timeline, lsn = min(on_the_way)
    return Reach(at - 1, "minimal", at, at, at + 1 if far.last != at else None, timeline, str(lsn))


def _unbroken(archive: Archive, lineage: Lineage, first: int, last: int | None) -> Reach:
    """Return how far an unbroken row of good segments goes on the lineage from segment `first`, at most to `last`."""
    good_last: int | None = None
    at, oldest = first, 0
    for stretch in stretches(lineage, archive.segment_size):
        if stretch.last is not None and stretch.last < at:
            continue
        end = stretch.last
        if last is not None and (end is None or end > last):
            end = last
        if end is not None and at > end:
            break
        good = _good_until(archive, stretch.timeline, at, end)
        if good is not None:
            good_last, at = good, good + 1
        if end is None or at <= end:
            return _ended(archive, lineage, stretch, at, good_last, oldest)
        oldest = stretch.timeline
    return Reach(good_last, "open_end")


def _good_until(archive: Archive, timeline: int, at: int, end: int | None) -> int | None:
    """Return the last segment of the unbroken good run at `at`, at most `end`; None when `at` itself is not good."""
    if not archive.good(timeline, at):
        return None
    stop = run_end(archive.segments[timeline], at)
    if end is not None:
        stop = min(stop, end)
    bad = [number for (tli, number) in archive.invalid if tli == timeline and at < number <= stop]
    return min(bad) - 1 if bad else stop


def _ended(archive: Archive, lineage: Lineage, stretch: Stretch, at: int, good_last: int | None, oldest: int) -> Reach:
    """Say what ends the replay at segment `at`, which is absent or invalid under its own name.

    PostgreSQL falls back to a parent's file of the segment in which the timeline began, or of the very first one, but
    never to a timeline older than `oldest`, the one that it is reading.
    """
    timeline = stretch.timeline
    follows = next(live_segments(archive, lineage, at + 1), None)
    spoilt = next(_spoilt(archive, lineage, at + 1), None)
    missing_last = follows[1] - 1 if follows else spoilt or stretch.last or at
    known = (good_last, at, missing_last, follows[1] if follows else None)
    if archive.present(timeline, at):
        reason = archive.invalid[(timeline, at)]
        return Reach(known[0], "invalid_segment", *known[1:], timeline=timeline, reason=reason)
    older = [t for t in lineage.candidates(at, archive.segment_size) if oldest <= t < timeline]
    if (at == stretch.first or good_last is None) and any(archive.present(t, at) for t in older):
        return Reach(known[0], "branch_hazard", *known[1:], timeline=timeline)
    if (
        follows
        or spoilt
        or stretch.last
        or left_later(archive.histories, archive.segments, timeline, at, archive.segment_size)
    ):
        return Reach(known[0], "hole", *known[1:], timeline=timeline)
    return Reach(good_last, "open_end", missing_first=at, timeline=timeline)


def goes_on(archive: Archive, timeline: int, number: int) -> bool:
    """Tell whether the archive shows that a timeline went on behind a segment: by a later one of it, or by a timeline
    with WAL that left it later."""
    numbers = archive.segments.get(timeline, ())
    later = numbers[bisect_left(numbers, number + 1) :]
    own = any(not archive.invalid.get((timeline, n), "").startswith("alien") for n in later)
    return own or left_later(archive.histories, archive.segments, timeline, number, archive.segment_size)


def left_later(
    histories: Mapping[int, tuple[Switch, ...]],
    segments: Mapping[int, Sequence[int]],
    timeline: int,
    number: int,
    size: int,
) -> bool:
    """Tell whether a timeline that has WAL left this one in a segment after `number`: then this one went on."""
    return any(
        left_after(timeline, number, switches, size)
        for child, switches in histories.items()
        if len(segments.get(child, ()))
    )


def _spoilt(archive: Archive, lineage: Lineage, first: int) -> Iterator[int]:
    """Yield the segments on the lineage from `first` on whose files are there and unusable: WAL went on to them. Those
    of another cluster tell nothing."""
    for stretch in stretches(lineage, archive.segment_size):
        for (timeline, number), reason in sorted(archive.invalid.items()):
            inside = max(first, stretch.first) <= number and (stretch.last is None or number <= stretch.last)
            if timeline == stretch.timeline and inside and not reason.startswith("alien"):
                yield number


def without_contradicted(archive: Archive) -> Archive:
    """Return the archive with those histories among the bad ones that its own segments contradict: a timeline has no
    WAL from before the segment in which it began. Files that hold another cluster's WAL, or another segment's, tell
    nothing of it."""
    size = archive.segment_size
    found: dict[int, str] = {}
    for timeline, switches in archive.histories.items():
        began = first_segment(switches, size)
        own = (n for n in archive.segments.get(timeline, ()) if not _elsewhere(archive.invalid.get((timeline, n), "")))
        first = next(own, began)
        if first < began:
            found[timeline] = (
                f"{timeline:08X}.history says that timeline {timeline} began at {Lsn(switches[-1].lsn)}, and the"
                f" archive has {archive.name(timeline, first)} of it, from before that:"
                " one of the two is another server's"
            )
    good = {timeline: switches for timeline, switches in archive.histories.items() if timeline not in found}
    bad = {**archive.bad_histories, **found}
    return replace(archive, histories=good, bad_histories=bad, contradicted=archive.contradicted | found.keys())


def _elsewhere(reason: str) -> bool:
    """Tell whether what is wrong with a segment is that it is another one."""
    return reason.startswith(("alien", "misplaced"))


def with_invalid(archive: Archive, invalid: Mapping[Key, str]) -> Archive:
    """Return the archive with files that satisfy nothing, which count as present."""
    segments = dict(archive.segments)
    for timeline in {timeline for timeline, _ in invalid}:
        held = segments.get(timeline, ())
        more = {number for own, number in invalid if own == timeline}
        if not more.issubset(held):
            segments[timeline] = sorted({*held, *more})
    return replace(archive, segments=segments, invalid={**archive.invalid, **invalid})


def live_segments(archive: Archive, lineage: Lineage, first: int, last: int | None = None) -> Iterator[Key]:
    """Yield (timeline, number) of the good segments on the lineage from `first` to `last`, dead tails left out."""
    for stretch in stretches(lineage, archive.segment_size):
        numbers = archive.segments.get(stretch.timeline, ())
        for number in numbers[bisect_left(numbers, max(first, stretch.first)) :]:
            if (stretch.last is not None and number > stretch.last) or (last is not None and number > last):
                break
            if (stretch.timeline, number) not in archive.invalid:
                yield stretch.timeline, number


def core_range(start_lsn: int, stop_lsn: int, size: int) -> tuple[int, int]:
    """Return the first and last segment that a backup from `start_lsn` (redo) to `stop_lsn` needs to be consistent."""
    first = segment_of(start_lsn, size)
    return first, max(first, segment_before(stop_lsn, size))


def resolve(
    choice: str,
    timeline: int,
    checkpoint: int,
    archive: Archive,
    stop: tuple[int, int] | None = None,
) -> Lineage | NoLineage:
    """Return the lineage that recovery_target_timeline = `choice` means for a backup, or why there is none.

    `choice` is latest, current or a number; `timeline` and `checkpoint` (LSN) are the backup's, and `stop` the
    timeline and the LSN at which it is consistent.
    """
    if choice == "current":
        wanted = timeline
    elif choice == "latest":
        wanted = newest_from(archive, timeline)
    else:
        wanted = int(choice)
    if wanted in archive.bad_histories:
        return NoLineage("bad_history", archive.bad_histories[wanted])
    if wanted != timeline and wanted != 1 and wanted not in archive.histories:
        return NoLineage(
            "no_such_timeline",
            f"the archive has no {wanted:08X}.history, so PostgreSQL cannot follow timeline {wanted}",
        )
    lineage = Lineage.of(wanted, archive.histories.get(wanted, ()))
    if not lineage.contains(timeline, checkpoint):
        return NoLineage("backup_off_branch", _off_branch(lineage, timeline, checkpoint, "checkpoint"))
    if stop is not None and not lineage.contains(stop[0], stop[1] - 1):
        return NoLineage("backup_off_branch", _off_branch(lineage, *stop, "end"))
    return lineage


def newest_from(archive: Archive, timeline: int) -> int:
    """Return what recovery_target_timeline = 'latest' means from a timeline on: PostgreSQL asks for the histories of
    the next ones up to the first that is missing (findNewestTimeLine), and reads only the last."""
    newest = timeline
    while newest + 1 in archive.histories or newest + 1 in archive.bad_histories:
        newest += 1
    return newest


def newest_readable(archive: Archive, timeline: int) -> int:
    """Return the newest timeline up to that whose history can be read, `timeline` itself when there is none."""
    newest = newest_from(archive, timeline)
    while newest > timeline and newest in archive.bad_histories:
        newest -= 1
    return newest


def _off_branch(lineage: Lineage, timeline: int, lsn: int, what: str) -> str:
    for span in lineage.spans:
        if span.timeline == timeline and span.end is not None:
            return (
                f"timeline {lineage.timeline} left timeline {timeline} at {span.end}, "
                f"before the backup's {what} at {Lsn(lsn)}"
            )
    return f"timeline {lineage.timeline} does not come from timeline {timeline}, the backup's"


def history_holes(archive: Archive) -> list[int]:
    """Return timelines above 1 without a history file although a newer one has it: `latest` stops below them, and a
    server that is promoted there calls itself by a number that is taken."""
    newest = max(archive.histories, default=1)
    return [t for t in range(2, newest) if t not in archive.histories and t not in archive.bad_histories]
