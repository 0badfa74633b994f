"""`backup_label` and the backup history file: where a base backup began, and ended.

Source: PostgreSQL's build_backup_content (src/backend/access/transam/xlogbackup.c) and read_backup_label
(xlogrecovery.c). A backup history file (`….backup` in the WAL archive) is the same with the STOP lines added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import CellarmanError
from engine.postgres.lsn import Lsn

FROM_STANDBY = "BACKUP FROM: standby"
"""In the label of a backup that was taken from a standby."""
_WAL_LOCATION = re.compile(r"(?P<lsn>[0-9A-F]+/[0-9A-F]+) \(file (?P<file>[0-9A-F]{24})\)")


class LabelError(CellarmanError):
    """A backup_label or backup history file that cannot be used."""


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """What a backup_label says; the `stop_` fields are only in a backup history file."""

    start_lsn: Lsn
    """The redo point: replay begins here."""
    start_wal: str
    checkpoint_lsn: Lsn
    method: str
    """`streamed` or `pg_start_backup`; newer servers write only `streamed`."""
    source: str
    """`primary` or `standby`."""
    start_time: str
    """As the server wrote it, in its log_timezone."""
    label: str
    timeline: int | None
    """None in labels of PostgreSQL 10 and older."""
    incremental_from: Lsn | None = None
    incremental_from_timeline: int | None = None
    stop_lsn: Lsn | None = None
    stop_wal: str = ""
    stop_time: str = ""
    stop_timeline: int | None = None


def parse_label(text: str) -> BackupLabel:
    """Return what a backup_label or backup history file says; raises LabelError naming the line that is wrong."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(": ")
        if colon:
            fields.setdefault(key, value)
    start = _location(fields, "START WAL LOCATION")
    if start is None:
        raise LabelError("not a backup_label", "there is no START WAL LOCATION line")
    stop = _location(fields, "STOP WAL LOCATION")
    return BackupLabel(
        start_lsn=start[0],
        start_wal=start[1],
        checkpoint_lsn=_lsn(fields, "CHECKPOINT LOCATION") or start[0],
        method=fields.get("BACKUP METHOD", ""),
        source=fields.get("BACKUP FROM", ""),
        start_time=fields.get("START TIME", ""),
        label=fields.get("LABEL", ""),
        timeline=_number(fields, "START TIMELINE"),
        incremental_from=_lsn(fields, "INCREMENTAL FROM LSN"),
        incremental_from_timeline=_number(fields, "INCREMENTAL FROM TLI"),
        stop_lsn=stop[0] if stop else None,
        stop_wal=stop[1] if stop else "",
        stop_time=fields.get("STOP TIME", ""),
        stop_timeline=_number(fields, "STOP TIMELINE"),
    )


def without_increments(text: str) -> str:
    r"""Return the label of an incremental backup as it is once the backup is combined with what it rests on.

    >>> without_increments("START TIMELINE: 1\nINCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n")
    'START TIMELINE: 1\n'
    """
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("INCREMENTAL FROM "))


def _location(fields: dict[str, str], key: str) -> tuple[Lsn, str] | None:
    if key not in fields:
        return None
    match = _WAL_LOCATION.match(fields[key])
    if match is None:
        raise _unreadable(key, fields[key])
    return Lsn.parse(match["lsn"]), match["file"]


def _lsn(fields: dict[str, str], key: str) -> Lsn | None:
    if key not in fields:
        return None
    try:
        return Lsn.parse(fields[key])
    except ValueError:
        raise _unreadable(key, fields[key]) from None


def _number(fields: dict[str, str], key: str) -> int | None:
    if key not in fields:
        return None
    if not fields[key].strip().isdecimal():
        raise _unreadable(key, fields[key])
    return int(fields[key])


def _unreadable(key: str, value: str) -> LabelError:
    return LabelError("the backup_label cannot be read", f"{key}: {value[:200]}")
