"""Segments of a WAL archive: what they are called, what was committed in them, which backups begin in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tui.format import Line, counted, exactly, plain, size

if TYPE_CHECKING:
    from engine.status import ServerStatus
    from engine.wal.chart import Chart
    from engine.wal.index import SegmentRow


def backups_on(chart: Chart, server: ServerStatus) -> dict[int, bool]:
    """Return the segments of a chart in which backups begin, and whether those are full ones."""
    found = {}
    for info in server.backups:
        if info.begin_xlog is not None and info.xlog_segment_size == chart.segment_size and info.timeline is not None:
            number = info.begin_xlog // chart.segment_size
            if chart.under(number) == info.timeline:
                found[number] = info.parent_backup_id is None
    return found


def names_of(first: str, last: str) -> str:
    """Return a range of segments' names, the last one as short as it can be.

    >>> names_of("00000003000001A400000017", "00000003000001A400000019")
    '00000003000001A400000017 .. 19'
    """
    if first == last:
        return first
    if first[:16] != last[:16]:
        return f"{first} .. {last}"
    return f"{first} .. {last[16:].lstrip('0') or '0'}"


def span_of(chart: Chart, first: int, last: int) -> str:
    count = last - first + 1
    many = f"   {counted(count, 'segment')}, {size(count * chart.segment_size)}" if count > 1 else ""
    return names_of(chart.name(first), chart.name(last)) + many


def logs(row: float) -> str:
    if row < 1:
        return f"1/{round(1 / row)} of a log"
    return f"{counted(int(row), 'log')}"


def told(row: SegmentRow, *, narrow: bool) -> Line:
    """Return what the list says of a segment that the index knows."""
    if row.problem:
        return ((plain(row.problem), "bad"),)
    if row.min_commit is None or row.max_commit is None:
        return (("none", "faint"),)
    begin, end = _moment(row.min_commit), _moment(row.max_commit)
    if narrow:
        return ((f"{row.n_commits or 0:>5,} ", "text"), (f"{begin:%m-%d %H:%M}", "quiet"))
    to = f"{end:%H:%M:%S}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return ((f"{row.n_commits or 0:>7,}  ", "text"), (f"{begin:%Y-%m-%d %H:%M:%S} to {to}", "quiet"))


def commits(rows: Sequence[SegmentRow]) -> str:
    times = [time for row in rows for time in (row.min_commit, row.max_commit) if time is not None]
    if not times:
        return "none"
    total = sum(row.n_commits or 0 for row in rows)
    return f"{total:,} from {exactly(_moment(min(times)))} to {exactly(_moment(max(times)))}"


def _moment(microseconds: int) -> datetime:
    from engine.postgres.clock import pg_time

    return pg_time(microseconds)
