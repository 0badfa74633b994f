"""Timelines as strands of time: when each left its parent, and from when to when it can be recovered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from engine.postgres.clock import pg_time
from engine.postgres.segment import segment_before
from engine.repository.layout import Layout
from engine.wal import index
from engine.wal.gaps import core_range
from engine.wal.judgement.coverage import Line, lines
from engine.wal.judgement.values import Case


@dataclass(frozen=True, slots=True)
class Reach:
    """Moments that can be recovered without a break."""

    begin: datetime
    end: datetime
    broken: bool
    """A gap ends it, not the end of the archive."""


@dataclass(frozen=True, slots=True)
class Strand:
    """One timeline that recovery can follow."""

    timeline: int
    parent: int | None
    left: datetime | None
    """When it left its parent, as far as that is known."""
    reaches: tuple[Reach, ...]
    """Of the whole lineage, its parents' time included; oldest first."""
    primary: bool
    """Where the server is, or where recovery of the newest backup leads."""


def strands(layout: Layout, case: Case) -> tuple[Strand, ...]:
    """Return the lineages of interest, oldest timeline first."""
    promotions = {
        event.timeline: pg_time(event.timestamp)
        for event in index.events(layout, index.END_OF_RECOVERY)
        if event.timestamp is not None
    }
    return tuple(_strand(layout, case, line, promotions) for line in lines(case))


def _strand(layout: Layout, case: Case, line: Line, promotions: Mapping[int, datetime]) -> Strand:
    size = case.archive.segment_size
    found: list[Reach] = []
    ends: dict[int, datetime | None] = {}
    newest = line.good[-1] if len(line.good) else -1
    furthest = -1
    for base in line.bases:
        first, last = core_range(base.start, base.stop, size)
        far = next((end for _, end in line.good.within(first, None)), None)
        if far is None or far < last or first not in line.good:
            continue
        if far not in ends:
            ends[far] = _until(layout, case, line, far)
        end = max(ends[far] or base.ended, base.ended)
        reach = Reach(base.ended, end, far < newest)
        if found and (far == furthest or reach.begin <= found[-1].end):
            found[-1] = Reach(found[-1].begin, max(found[-1].end, end), reach.broken)
        else:
            found.append(reach)
        furthest = far
    spans = line.lineage.spans
    parent = int(spans[-2].timeline) if len(spans) > 1 else None
    left = promotions.get(line.timeline)
    if left is None and parent is not None:
        left = _until(layout, case, line, segment_before(spans[-1].begin, size))
    return Strand(line.timeline, parent, left, tuple(found), line.primary)


def _until(layout: Layout, case: Case, line: Line, number: int) -> datetime | None:
    """Return the time of the latest commit up to a segment, or when the segment was written."""
    for stretch in reversed([each for each in line.stretches if each.first <= number]):
        known = index.last_time(layout, stretch.timeline, number if stretch.last is None else min(number, stretch.last))
        if known is not None:
            return pg_time(known)
    name = case.archive.name(line.canonical(max(number, line.stretches[0].first)), number)
    for directory in (None, layout.incoming, layout.streaming):
        try:
            path = layout.wal(name) if directory is None else os.path.join(directory, name)
            return datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
        except OSError:
            continue
    return None
