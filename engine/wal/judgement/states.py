"""Where each segment that the archive lacks is now: still to be written, on its way, kept elsewhere, or lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from engine.postgres.segment import parse_segment, segment_start
from engine.wal.gaps import Key
from engine.wal.judgement.values import Case
from engine.wal.live import Live

FUTURE = "future"
WRITING = "writing"
RECEIVING = "receiving"
PENDING = "pending"
DELAYED = "delayed"
RECOVERABLE = "lost_but_recoverable"
PARTIAL_ONLY = "partial_only"
LOST = "lost"
UNKNOWN = "unknown"

ON_ITS_WAY = frozenset((FUTURE, WRITING, RECEIVING, PENDING))
"""What is no gap, or none yet."""
GRACE = timedelta(seconds=60)
"""Beyond archive_timeout, for pushers that work side by side to finish out of order."""
_ASSUMED_TIMEOUT = timedelta(seconds=60)
_LONGEST_TIMEOUT = timedelta(hours=1)


class Whereabouts:
    """The states of the segments of one case."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._live = None if case.past else case.live
        size = case.archive.segment_size
        self._ready = _keys(self._live.ready or (), size) if self._live else set()
        self._done = _keys(self._live.done or (), size) if self._live else set()
        self._held = _keys(self._live.pg_wal or (), size) if self._live else set()
        self._elsewhere: set[Key] = set()
        """What standbys hold."""
        for standby in case.standbys:
            if standby.segment_size == size:
                self._elsewhere |= _keys(standby.pg_wal or (), size)
        newest = (numbers[-1] for numbers in case.archive.segments.values() if len(numbers))
        self._newest = max(newest, default=-1)
        """The newest segment of all in the archive."""
        self._special = sorted(
            {
                *self._ready,
                *self._held,
                *self._elsewhere,
                *case.partials,
                *case.encoded,
                *([case.receiving] if case.receiving else []),
            }
        )

    def split(self, timeline: int, first: int, last: int, following: int | None) -> Iterator[tuple[str, int, int]]:
        """Yield (state, first, last) of a range that lacks; `following` is the first good segment after the hole."""
        default = self._seen(timeline, self._defaults(timeline, first, last, following))
        states: list[tuple[str, int, int]] = []
        own = [number for t, number in self._special if t == timeline and first <= number <= last]
        for state, begin, end in default:
            at = begin
            for number in own:
                if at <= number <= end:
                    if number > at:
                        states.append((state, at, number - 1))
                    states.append((self._one((timeline, number), state), number, number))
                    at = number + 1
            if at <= end:
                states.append((state, at, end))
        yield from _joined(states)

    def _seen(self, timeline: int, states: Iterator[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
        """Yield the states, unknown where a directory cannot be read."""
        unseen = self._case.unseen.get(timeline)
        for state, first, last in states:
            if unseen is None or state not in (LOST, DELAYED):
                yield state, first, last
                continue
            parts = [(UNKNOWN, a, b) for a, b in unseen.within(first, last)]
            parts += [(state, a, b) for a, b in unseen.missing(first, last)]
            yield from sorted(parts, key=lambda part: part[1])

    def _defaults(self, timeline: int, first: int, last: int, following: int | None) -> Iterator[tuple[str, int, int]]:
        """Yield the states of a range as if no copy of a segment were anywhere."""
        ends: list[tuple[int, str]] = []
        held = self._held_back(timeline, following)
        if self._live is not None and self._live.timeline == timeline and self._live.written is not None:
            written, writing = self._live.written, self._live.writing
            full = written - 1 if writing == written else written
            between = DELAYED
            if self._live.pg_wal is None and self._live.ready is None:
                held = min(held, self._live.last_archived or max(self._newest, 0))
                between = UNKNOWN
            ends = [(min(held, full), LOST), (full, between), (written, WRITING), (last, FUTURE)]
        elif following is None and last > self._newest and not self._case.past:
            ends = [(max(self._newest, 0), LOST), (last, UNKNOWN)]
        else:
            ends = [(held, LOST), (last, DELAYED)]
        at = first
        for end, state in ends:
            if at <= min(end, last):
                yield state, at, min(end, last)
                at = min(end, last) + 1

    def _held_back(self, timeline: int, following: int | None) -> int:
        """Return the last number whose loss is certain: after it a pusher may still be at work."""
        case, live = self._case, self._live
        certain = 1 << 62
        if case.past or (following is None and live is None):
            return certain
        newest = max(self._newest, live.last_archived or 0 if live else 0)
        if following is not None:
            timeout = _ASSUMED_TIMEOUT
            if live is not None and live.archive_timeout:
                timeout = min(timedelta(seconds=live.archive_timeout), _LONGEST_TIMEOUT)
            arrived = case.evidence.arrived(timeline, following)
            if arrived is None or not -GRACE <= case.now - arrived <= timeout + GRACE:
                return certain
        elif live is not None and not _lately(live, case):
            return certain
        return newest - case.concurrency

    def _one(self, key: Key, otherwise: str) -> str:
        """Return the state of one segment of which something is known to be somewhere."""
        case, live = self._case, self._live
        if otherwise in (FUTURE, WRITING):
            return RECEIVING if key == case.receiving else otherwise
        if key == case.receiving:
            return RECEIVING
        if key in self._ready:
            return PENDING
        if key in self._held and live is not None:
            return PENDING if self._will_come(key, live) else RECOVERABLE
        if key in case.encoded or key in self._elsewhere or (key in case.partials and case.partials[key].whole):
            return RECOVERABLE
        return PARTIAL_ONLY if key in case.partials else otherwise

    def _will_come(self, key: Key, live: Live) -> bool:
        """Tell whether a segment that pg_wal holds will still be archived or streamed without our doing."""
        if key in self._done:
            return False
        if live.archiving:
            return live.last_archived is None or key[1] > live.last_archived
        slot = live.slot(self._case.slot) if self._case.slot else None
        if slot is not None and slot.restart_lsn is not None:
            return slot.restart_lsn <= segment_start(key[1], self._case.archive.segment_size)
        return bool(self._case.slot) and live.slots is None and key[1] > self._newest


def _lately(live: Live, case: Case) -> bool:
    """Tell whether the archiver took something within its own time-out."""
    at = live.archiver.last_archived_time
    timeout = min(timedelta(seconds=live.archive_timeout) or _ASSUMED_TIMEOUT, _LONGEST_TIMEOUT)
    return at is not None and case.now - at <= timeout + GRACE


def _keys(names: Iterable[str], size: int) -> set[Key]:
    found: set[Key] = set()
    for name in names:
        try:
            if len(name) == 24:
                found.add(parse_segment(name, size))
        except ValueError:
            continue
    return found


def _joined(states: list[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield the states with neighbours of the same kind as one."""
    current: tuple[str, int, int] | None = None
    for state, first, last in states:
        if current is not None and current[0] == state and current[2] + 1 == first:
            current = (state, current[1], last)
            continue
        if current is not None:
            yield current
        current = (state, first, last)
    if current is not None:
        yield current
