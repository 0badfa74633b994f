"""The transactions around a moment, in the order of the WAL: what to look at when choosing where to stop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from engine.config import Server
from engine.postgres.clock import pg_microseconds
from engine.postgres.segment import parse_segment
from engine.postgres.timeline import Lineage
from engine.recovery.choices import newest_lineage
from engine.recovery.evidence import InvalidSegment, WalFacts
from engine.recovery.facts import Mark
from engine.recovery.plan import Plan
from engine.recovery.stock import restorable
from engine.recovery.target import LsnTarget, TimeTarget
from engine.repository import repository
from engine.wal import index
from engine.wal.gaps import Archive, Key, live_segments, without_contradicted
from engine.wal.listing import scan

AROUND = 60
"""Transactions that are wanted on each side."""
_MOST_READ = 12
"""Segments that are read on each side at most: an idle server writes many without a commit."""


@dataclass(frozen=True, slots=True)
class Nearby:
    """Ends of transactions in the order of the WAL; those before `split` stay, the others do not."""

    marks: tuple[Mark, ...]
    split: int


def nearby(server: Server, plan: Plan, *, around: int = AROUND) -> Nearby:
    """Return the commits and aborts around where a plan stops; where it cannot be reached, around what it asks for.

    Reads up to some dozen segments.
    """
    infos = [info for info in repository.catalogue(server.layout).backups if restorable(info)]
    if not infos:
        return Nearby((), 0)
    archive = without_contradicted(scan(server.layout, infos[0].xlog_segment_size))
    line = _lineage(plan, archive)
    numbers = list(live_segments(archive, line, 0))
    if not numbers:
        return Nearby((), 0)
    facts = WalFacts(server.layout, archive, infos[0].systemid)
    at = _place(server, plan, archive, numbers)
    before: list[Mark] = []
    for key in _few(reversed(numbers[:at])):
        before[:0] = _marks(facts, key)
        if len(before) > around:
            break
    after: list[Mark] = []
    for key in _few(iter(numbers[at:])):
        after += _marks(facts, key)
        if _split(plan, [*before, *after]) + around < len(before) + len(after):
            break
    marks = [*before, *after]
    split = _split(plan, marks)
    first = max(0, split - around)
    return Nearby(tuple(marks[first : split + around]), split - first)


def _lineage(plan: Plan, archive: Archive) -> Lineage:
    if plan.timeline is None:
        return newest_lineage(archive)
    return Lineage.of(plan.timeline, archive.histories.get(plan.timeline, ()))


def _place(server: Server, plan: Plan, archive: Archive, keys: list[Key]) -> int:
    """Return the place among `keys` of the segment in which the target lies."""
    target = plan.order.target
    number = keys[-1][1]
    if plan.wal is not None:
        number = parse_segment(plan.wal.last, archive.segment_size)[1]
    elif isinstance(target, LsnTarget):
        number = target.lsn // archive.segment_size
    elif isinstance(target, TimeTarget):
        number = _segment_at(server, target.at, keys)
    return min(bisect_left([each[1] for each in keys], number), len(keys) - 1)


def _segment_at(server: Server, at: datetime, keys: list[Key]) -> int:
    """Return the first segment with a transaction after a moment, as the index knows it; else the last one."""
    wanted = pg_microseconds(at)
    found = (index.first_after(server.layout, each, wanted) for each in dict.fromkeys(timeline for timeline, _ in keys))
    return next((number for number in found if number is not None), keys[-1][1])


def _few(keys: Iterator[Key]) -> Iterator[Key]:
    return (key for key, _ in zip(keys, range(_MOST_READ), strict=False))


def _marks(facts: WalFacts, key: Key) -> list[Mark]:
    try:
        return list(facts.marks(key))
    except InvalidSegment:
        return []


def _split(plan: Plan, marks: list[Mark]) -> int:
    """Return how many of the marks stay."""
    if plan.dropped is not None:
        return sum(1 for mark in marks if mark.lsn < plan.dropped.lsn)
    if plan.kept is not None:
        return sum(1 for mark in marks if mark.lsn <= plan.kept.lsn)
    if isinstance(plan.order.target, TimeTarget):
        at = pg_microseconds(plan.order.target.at)
        return next((place for place, mark in enumerate(marks) if mark.time > at), len(marks))
    if isinstance(plan.order.target, LsnTarget):
        lsn = plan.order.target.lsn
        return sum(1 for mark in marks if mark.lsn < lsn)
    return len(marks)
