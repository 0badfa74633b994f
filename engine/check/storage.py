"""The disk below a server's repository: directories, space, queues, and what was refused."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from engine.postgres import segment
from engine.repository.files import listed
from engine.repository.layout import Layout
from engine.wal import refused
from engine.wal.refused import Refused


@dataclass(frozen=True, slots=True)
class Queue:
    """Files that wait to be archived."""

    count: int
    oldest: datetime | None


_OCTAL = re.compile(r"\\([0-7]{3})")
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
    inodes: Mapping[str, int]
    """Directory to the files that may still be made there; without those whose file system does not count them."""
    systems: Mapping[str, str]
    """Directory to the type of its file system; those on one file system once."""
    links: str | None
    """Why base/ takes no hard links, "" when it does; None when that was not tried."""
    incoming: Queue
    streaming: Queue
    received: tuple[str, ...]
    """Names in streaming/, those of unfinished segments too."""
    errors: tuple[str, ...]
    """Names in errors/, sorted."""
    refused: tuple[Refused, ...]
    """Those that no good copy in the archive has settled."""
    newest_wal: datetime | None
    """When the newest segment of the archive was written by PostgreSQL."""
    last_maintenance: datetime | None
    """When a maintenance pass last began, ours or Barman's; None: never."""
    last_by_itself: datetime | None
    """When one last began that was not called by hand; None: never, as far as is known."""


def look(layout: Layout, state_directory: str = "", measure: bool = True) -> Storage:
    """Look at a server's directories; with `measure` a dot-file is made in base/, linked, and both are removed."""
    places = [*layout.directories(), layout.locks, *([state_directory] if state_directory else [])]
    unusable: dict[str, str] = {}
    missing: list[str] = []
    for place in dict.fromkeys(places):
        reason = _unusable(place)
        if reason:
            unusable[place] = reason
        elif not os.path.isdir(place):
            missing.append(place)
    nearest = _file_systems([layout.base, layout.wals])
    return Storage(
        unusable,
        tuple(missing),
        _owner(layout.home),
        _free(nearest, lambda room: room.f_bavail * room.f_frsize),
        _free(nearest, lambda room: room.f_favail if room.f_files else None),
        {place: mount_of(existing)[1] for place, existing in nearest.items()},
        _try_link(layout.base) if measure and os.path.isdir(layout.base) and layout.base not in unusable else None,
        _queue(layout.incoming),
        _queue(layout.streaming),
        tuple(listed(layout.streaming)),
        tuple(sorted(listed(layout.errors))),
        tuple(refused.unsettled(layout)),
        _newest_wal(layout),
        _modified(layout.lock("cron")),
        _by_itself(layout),
    )


def _by_itself(layout: Layout) -> datetime | None:
    """A pass of ours marks how it was begun, after it has taken the lock; one of Barman's leaves the lock alone."""
    last, ours, by_hand = map(_modified, (layout.lock("cron"), layout.by_itself, layout.by_hand))
    if last is not None and (by_hand is None or last > by_hand) and (ours is None or last > ours):
        return last
    return ours


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


def _file_systems(places: list[str]) -> dict[str, str]:
    """Return the places that are on file systems of their own, each with the nearest directory that exists."""
    found: dict[str, str] = {}
    seen: set[int] = set()
    for place in places:
        nearest = place
        while not os.path.isdir(nearest):
            nearest = os.path.dirname(nearest)
        device = os.stat(nearest).st_dev
        if device not in seen:
            seen.add(device)
            found[place] = nearest
    return found


def _free(places: Mapping[str, str], count: Callable[[os.statvfs_result], int | None]) -> dict[str, int]:
    found = {place: count(os.statvfs(nearest)) for place, nearest in places.items()}
    return {place: number for place, number in found.items() if number is not None}


def mount_of(path: str) -> tuple[str, str]:
    """Return where an existing path's file system is mounted, and its type (proc(5), mountinfo); "" for unknown."""
    real = os.path.realpath(path)
    found = ("", "")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return found
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):  # of those mounted over each other, the last one is seen
            found = (point, after.split(" ")[0])
    return found


def _try_link(directory: str) -> str:
    """Make a file and a hard link to it, remove both, and return why that did not work, or ""."""
    stem = os.path.join(directory, f".cellarman-link-{os.getpid()}-{threading.get_ident()}")
    names = (f"{stem}.1", f"{stem}.2")
    try:
        os.close(os.open(names[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.link(*names)
        return "" if os.stat(names[0]).st_nlink == 2 else "a link was made and is not counted"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(name)


def _queue(directory: str) -> Queue:
    """Count whole WAL files; the .partial that pg_receivewal writes to is no queue, nor is a temporary file."""
    waiting = [n for n in listed(directory) if not n.endswith((".partial", ".tmp")) and not n.startswith(".")]
    times = [moment for name in waiting if (moment := _modified(os.path.join(directory, name)))]
    return Queue(len(waiting), min(times, default=None))


def _modified(path: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
    except FileNotFoundError:
        return None


def _newest_wal(layout: Layout) -> datetime | None:
    """Return the time of the last segment by name, of the newest timeline: mtime is that of the source."""
    for prefix in sorted((n for n in listed(layout.wals) if len(n) == 16), reverse=True):
        directory = os.path.join(layout.wals, prefix)
        names = [n for n in listed(directory) if segment.kind_of(n) == segment.SEGMENT]
        if names:
            return _modified(os.path.join(directory, max(names)))
    return None
