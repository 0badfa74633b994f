"""Where a backup is consistent: behind the record of its end, or, of a standby, at the least point that its files need.

Source: PostgreSQL's xlogrecovery_redo, CheckRecoveryConsistency and InitWalRecovery
(src/backend/access/transam/xlogrecovery.c): the record of a primary backup's end names where the backup began; a
backup of a standby ends at minRecoveryPoint of the pg_control that was copied last. What a catalogue has for the end
is written later, and may lie far behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.errors import CellarmanError
from engine.postgres import walfile
from engine.postgres.backuplabel import FROM_STANDBY
from engine.postgres.controlfile import ControlFile, read_control
from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment, segment_name, segment_start
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.wal import codec, index
from engine.wal.gaps import core_range

MOST_READ = 8
"""Segments that the index does not know, read in search of the records of backups' ends."""
_RECORD = 40
"""Bytes of that record: a header of 24, a short one of 2, the LSN where the backup began, aligned."""
_BLOCK = 8192
_SHORT, _LONG = 24, 40


@dataclass(frozen=True, slots=True)
class Consistent:
    """From where to where a backup has to be replayed, on which timelines."""

    timeline: int
    start: Lsn
    stop: Lsn
    stop_timeline: int
    exact: bool = False
    """Whether `stop` is that very point, and not just somewhere behind it."""
    lacking: str = ""
    """Why there is none in the WAL that the archive has."""


def consistent(layout: Layout, infos: Sequence[BackupInfo], *, most_read: int) -> dict[str, Consistent]:
    """Return by id where backups that have ended are consistent.

    At most `most_read` segments are read where the index does not know them, those of the first backups first.
    """
    spans = {info.id: _span(info) for info in infos}
    wanted = [(span.timeline, *_core(info, span), span.start) for info in infos for span in [spans[info.id]]]
    ends = index.backup_ends(layout, wanted)
    found: dict[str, Consistent] = {}
    for info in infos:
        span = spans[info.id]
        if FROM_STANDBY in (info.backup_label or ""):
            found[info.id] = _of_standby(layout, info, span)
            continue
        record, known = ends.get((span.timeline, span.start), (None, 0))
        first, last = _core(info, span)
        unknown = last - first + 1 - known
        if record is not None:
            found[info.id] = _ended(info, span, record)
        elif unknown <= most_read and info.backup_label:  # else where it began is the catalogue's word only
            found[info.id] = _looked_for(layout, info, span)
            most_read -= unknown
        else:
            found[info.id] = span
    return found


def _span(info: BackupInfo) -> Consistent:
    """Return what the catalogue says."""
    size = info.xlog_segment_size
    if info.begin_wal is None or info.end_wal is None:
        raise AssertionError("only backups that have ended are asked for")
    (timeline, first), (stop_timeline, last) = parse_segment(info.begin_wal, size), parse_segment(info.end_wal, size)
    begin, end = info.begin_xlog, info.end_xlog
    if begin is None:
        begin = Lsn(segment_start(first, size) + (info.begin_offset or 0))
    if end is None:
        end = Lsn(segment_start(last + 1, size))
    return Consistent(info.timeline or timeline, begin, end, stop_timeline)


def _core(info: BackupInfo, span: Consistent) -> tuple[int, int]:
    return core_range(span.start, span.stop, info.xlog_segment_size)


def _ended(info: BackupInfo, span: Consistent, record: int) -> Consistent:
    stop = _end_of(Lsn(record), info.xlog_segment_size)
    return Consistent(span.timeline, span.start, stop, span.timeline, True)


def _of_standby(layout: Layout, info: BackupInfo, span: Consistent) -> Consistent:
    control = _control(layout, info)
    if control is None or not control.min_recovery_lsn:
        return Consistent(span.timeline, span.start, span.stop, span.stop_timeline, True)
    if control.min_recovery_lsn <= span.start:
        return Consistent(span.timeline, span.start, span.start, span.timeline, True)
    return Consistent(span.timeline, span.start, control.min_recovery_lsn, control.min_recovery_timeline, True)


def _control(layout: Layout, info: BackupInfo) -> ControlFile | None:
    """Return the backup's pg_control; None where it lies in a tar file."""
    for data in (layout.data(info.id), os.path.join(layout.backup(info.id), "pgdata")):
        try:
            with open(os.path.join(data, "global", "pg_control"), "rb") as file:
                return read_control(file.read())
        except (OSError, CellarmanError):
            continue
    return None


def _looked_for(layout: Layout, info: BackupInfo, span: Consistent) -> Consistent:
    """Look for the record of a backup's end in the segments that the index does not know."""
    size = info.xlog_segment_size
    first, last = _core(info, span)
    known = {row.number for row in index.rows(layout, span.timeline, first, last) if row.problem is None}
    for number in range(last, first - 1, -1):
        name = segment_name(span.timeline, number, size)
        if number in known:
            continue
        try:
            data = codec.read_segment(layout.wal(name))
            header = walfile.read_header(data)
        except (CellarmanError, OSError):
            return span
        if walfile.check_segment(name, header, system_id=info.systemid, size=len(data)):
            return span
        for record in walfile.walk(data, header).backup_ends:
            if record.start_lsn == span.start:
                return _ended(info, span, record.lsn)
    names = " to ".join(dict.fromkeys(segment_name(span.timeline, number, size) for number in (first, last)))
    why = f"no record in {names} says that backup {info.id} ended: that is WAL of another history than the backup's"
    return replace(span, lacking=why)


def _end_of(record: Lsn, segment_size: int) -> Lsn:
    """Return the end of the record of a backup's end, which may go on in the next page.

    >>> _end_of(Lsn.parse("0/5000100"), 1 << 24), _end_of(Lsn.parse("0/5001FF0"), 1 << 24)
    (Lsn('0/5000128'), Lsn('0/5002030'))
    """
    border = record // _BLOCK * _BLOCK + _BLOCK
    if record + _RECORD <= border:
        return Lsn(record + _RECORD)
    return Lsn(record + _RECORD + (_SHORT if border % segment_size else _LONG))
