"""The disk below a server's repository: directories, space, queues, and what was refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from engine.postgres import segment
from engine.repository.layout import Layout


@dataclass(frozen=True, slots=True)
class Queue:
    """Files that wait to be archived."""

    count: int
    oldest: datetime | None


READ_ONLY = "read-only file system"


@dataclass(frozen=True, slots=True)
class Storage:
    """What the disk says."""

    unusable: Mapping[str, str]
    """Directory to why files cannot be made in it."""
    missing: tuple[str, ...]
    """Directories that are not there and can be made."""
    owner: int | None
    """Numeric user that owns the server's directory; None when it is not there."""
    free: Mapping[str, int]
    """Directory to the bytes that this account may still write there; those on one file system once."""
    incoming: Queue
    streaming: Queue
    errors: tuple[str, ...]
    """Names in errors/, sorted."""
    newest_wal: datetime | None
    """When the newest segment of the archive was written by PostgreSQL."""
    last_maintenance: datetime | None
    """When a maintenance pass last began, ours or Barman's; None: never."""


def look(layout: Layout, state_directory: str = "") -> Storage:
    """Look at a server's directories; nothing is made or changed."""
    places = [*layout.directories(), layout.locks, *([state_directory] if state_directory else [])]
    unusable: dict[str, str] = {}
    missing: list[str] = []
    for place in dict.fromkeys(places):
        reason = _unusable(place)
        if reason:
            unusable[place] = reason
        elif not os.path.isdir(place):
            missing.append(place)
    return Storage(
        unusable,
        tuple(missing),
        _owner(layout.home),
        _free([layout.base, layout.wals]),
        _queue(layout.incoming),
        _queue(layout.streaming),
        tuple(sorted(_names(layout.errors))),
        _newest_wal(layout),
        _modified(layout.lock("cron")),
    )


def _unusable(place: str) -> str:
    """Return why files cannot be made in `place`, or "" when they can (once it is made)."""
    if os.path.isdir(place):
        if not os.access(place, os.W_OK | os.X_OK):
            return READ_ONLY if _read_only(place) else "no permission to write"
        return ""
    if os.path.lexists(place):
        return "not a directory"
    parent = os.path.dirname(place)
    return _unusable(parent) if parent != place else "not there"


def _read_only(place: str) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except FileNotFoundError:
        return None


def _free(places: list[str]) -> dict[str, int]:
    free: dict[str, int] = {}
    seen: set[int] = set()
    for place in places:
        nearest = place
        while not os.path.isdir(nearest):
            nearest = os.path.dirname(nearest)
        device = os.stat(nearest).st_dev
        if device not in seen:
            seen.add(device)
            room = os.statvfs(nearest)
            free[place] = room.f_bavail * room.f_frsize
    return free


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _queue(directory: str) -> Queue:
    """Count whole WAL files; the .partial that pg_receivewal writes to is no queue, nor is a temporary file."""
    waiting = [n for n in _names(directory) if not n.endswith((".partial", ".tmp")) and not n.startswith(".")]
    times = [moment for name in waiting if (moment := _modified(os.path.join(directory, name)))]
    return Queue(len(waiting), min(times, default=None))


def _modified(path: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
    except FileNotFoundError:
        return None


def _newest_wal(layout: Layout) -> datetime | None:
    """Return the time of the last segment by name, of the newest timeline: mtime is that of the source."""
    for prefix in sorted((n for n in _names(layout.wals) if len(n) == 16), reverse=True):
        directory = os.path.join(layout.wals, prefix)
        names = [n for n in _names(directory) if segment.kind_of(n) == segment.SEGMENT]
        if names:
            return _modified(os.path.join(directory, max(names)))
    return None
