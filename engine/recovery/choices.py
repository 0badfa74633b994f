"""Moments worth offering: just before something was dropped or emptied, restore points, the end of the archive.

Read from the index of the archive, so that it costs little; what the index has not read yet is not offered yet.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from engine.config import Server
from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_before
from engine.postgres.timeline import Lineage
from engine.recovery.candidates import Run, open_run
from engine.recovery.stock import bases, restorable, sound, system_id
from engine.recovery.target import EndOfArchive, LsnTarget, NameTarget, Target, TimeTarget, XidTarget
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import index
from engine.wal.gaps import Archive
from engine.wal.indexschema import DROP, RESTORE_POINT, Event

Kind = Literal["end", "drop", "restore_point", "backup"]
MOST = 200
_FIRST_XID = 3
_BUDGET = 10.0


@dataclass(frozen=True, slots=True)
class Ready:
    """One moment that is offered."""

    kind: Kind
    target: Target
    at: datetime | None = None
    """When it was; for the end of the archive the last commit that is indexed."""
    lsn: Lsn | None = None
    name: str = ""
    """Of a restore point, or a backup's id and name."""
    xid: int | None = None
    """Of the transaction that dropped something."""
    repeated: bool = False
    """Another restore point has this name too, so this one is reached by its LSN."""
    reachable: bool = True
    """Whether some backup gets there; False for what lies in a gap of the WAL, or behind the last one."""


def ready(server: Server, *, most: int = MOST) -> list[Ready]:
    """Return the moments that are offered for a server: the end of the archive, then the others, newest first.

    Only those on the timelines that recovery follows to the newest one, after the end of the oldest usable backup.
    """
    layout = server.layout
    backups = [info for info in repository.catalogue(layout).backups if restorable(info)]
    if not backups:
        return []
    system = system_id(layout, backups)
    archive = sound(layout, backups, system, keep=False)
    line = newest_lineage(archive)
    since = min(_stop(info) for info in backups)
    events = [
        event
        for event in index.events(layout, DROP, RESTORE_POINT)
        if event.lsn >= since and line.contains(event.timeline, event.lsn)
    ]
    events.sort(key=lambda event: int(event.lsn), reverse=True)
    names = Counter(event.name for event in events if event.kind == RESTORE_POINT)
    taken = {f"barman_{info.id}": info for info in backups}
    starts = bases(layout, [info for info in backups if info.xlog_segment_size == archive.segment_size], system)
    runs = [run for run in (open_run(base, "latest", archive) for base in starts) if isinstance(run, Run)]
    size = archive.segment_size
    found = [replace(_ready(event, names, taken), reachable=_reached(event, runs, size)) for event in events[:most]]
    open_end = any(run.reach.end_kind == "open_end" for run in runs)
    return [replace(_end(server, archive, line), reachable=open_end), *found][:most]


def _reached(event: Event, runs: Sequence[Run], segment_size: int) -> bool:
    """Tell whether some backup can be replayed to the end of an event's record."""
    needed = segment_before(event.lsn, segment_size)
    return any(int(run.base.stop) <= event.lsn and needed <= (run.reach.last or 0) for run in runs)


def catch_up(server: Server) -> None:
    """Bring the index up to date, so that the latest drops and restore points are offered; takes seconds at most.

    Raises CellarmanError when the index cannot be written: what it knew before is offered still.
    """
    index.catch_up(server.layout, budget=_BUDGET)


def version(server: Server) -> tuple[int, ...]:
    """Return something that changes when the index does: until then the same is offered."""
    return tuple(_changed(path) for path in (server.layout.index, f"{server.layout.index}-wal"))


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def newest_lineage(archive: Archive) -> Lineage:
    """Return what recovery follows to the newest timeline of the archive."""
    newest = max([*archive.segments, *archive.histories], default=1)
    return Lineage.of(newest, archive.histories.get(newest, ()))


def _stop(info: BackupInfo) -> int:
    return int(info.end_xlog) if info.end_xlog is not None else 0


def _end(server: Server, archive: Archive, line: Lineage) -> Ready:
    numbers: Sequence[int] = archive.segments.get(line.timeline, ())
    latest = index.last_time(server.layout, line.timeline, numbers[-1]) if numbers else None
    return Ready("end", EndOfArchive(), None if latest is None else pg_time(latest))


def _ready(event: Event, names: Counter[str], taken: Mapping[str, BackupInfo]) -> Ready:
    at = None if event.timestamp is None else pg_time(event.timestamp)
    lsn = Lsn(event.lsn)
    if event.kind == RESTORE_POINT:
        repeated = names[event.name] > 1
        target: Target = LsnTarget(lsn) if repeated or not _nameable(event.name) else NameTarget(event.name)
        info = taken.get(event.name)
        if info is not None:
            # Barman and Cellarman name a restore point after each backup, once it has ended.
            name = f"{info.id} ({info.backup_name})" if info.backup_name else info.id
            return Ready("backup", target, at, lsn, name, repeated=repeated)
        return Ready("restore_point", target, at, lsn, event.name, repeated=repeated)
    xid = event.value if event.value is not None and event.value >= _FIRST_XID else None
    if xid is not None:
        return Ready("drop", XidTarget(xid, inclusive=False), at, lsn, xid=xid)
    if at is not None:
        return Ready("drop", TimeTarget(at, inclusive=False), at, lsn)
    return Ready("drop", LsnTarget(lsn, inclusive=False), at, lsn)


def _nameable(name: str) -> bool:
    """Tell whether a name can stand in a configuration file, and on a screen."""
    return bool(name) and name.isprintable()
