"""What is found where a restore may write, on this host: facts, read without changing anything."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass

from engine.oserrors import mounted_at
from engine.wal.spool import lives

MARKER = "cellarman-restore-incomplete.json"
"""In a data directory from its first byte until it is whole; holds the tablespace directories made with it."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an interrupted restore left at the destination; it cannot start and may be removed."""

    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A path that a restore would write to, and what is there."""

    path: str
    real: str
    """Without symbolic links."""
    there: bool
    """Something has this name, be it a link that leads nowhere."""
    leads_to: str = ""
    """Where a link that leads nowhere leads."""
    directory: bool = False
    owner: int = 0
    usable: bool = False
    """This account may list it, write to it and enter it."""
    names: tuple[str, ...] = ()
    """In the directory, where this account may look into it, sorted; of very many only the first."""
    server_pid: int | None = None
    """Of the PostgreSQL that runs in it."""
    inside: str = ""
    """The data directory that it lies below."""
    parent: str = ""
    """The nearest directory above that exists."""
    parent_directory: bool = True
    parent_usable: bool = True
    free: int = 0
    """Bytes that an unprivileged account may still write there."""
    device: str = ""
    """The file system."""
    leftover: Leftover | None = None
    busy: bool = False
    """Another process restores into it right now."""
    system_id: int | None = None
    """Of the data directory in it, where it was asked for: on another host."""
    read_only: str = ""
    """Where its file system, or the one that it would be made on, is mounted; empty when files can be made there."""
    hidden: str = ""
    """The directory, itself or one above, that this account may not look into; what is there is not known then."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The host that a restore goes to, as far as it matters."""

    uid: int
    destination: Place
    spaces: tuple[Place, ...] = ()
    """Of the tablespaces, in the plan's order."""
    replayed: tuple[Place, ...] = ()
    """Of the tablespaces that WAL makes, in the plan's order."""
    host: str = ""
    """Its name; empty for this host."""
    holds_repository: bool = True
    """The repository's paths are that host's too."""


def look(path: str) -> Place:
    """Return what is at a path of this host."""
    there = os.path.lexists(path)
    leads = there and not os.path.exists(path)
    directory = os.path.isdir(path)
    usable = directory and os.access(path, os.R_OK | os.W_OK | os.X_OK)
    hidden = _hidden(path)
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    existing = path if os.path.exists(path) else parent
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    stat = os.statvfs(existing)
    return Place(
        path,
        os.path.realpath(path),
        there,
        os.readlink(path) if leads else "",
        directory,
        os.stat(path).st_uid if there and not leads else 0,
        usable,
        tuple(sorted(os.listdir(path))) if directory and not hidden else (),
        running(path),
        _inside_cluster(path),
        parent,
        os.path.isdir(parent),
        os.access(parent, os.W_OK | os.X_OK),
        stat.f_bavail * stat.f_frsize,
        str(os.stat(existing).st_dev),
        _leftover(path),
        _in_work(path),
        read_only=mounted_at(existing) if stat.f_flag & os.ST_RDONLY else "",
        hidden=hidden,
    )


def _hidden(path: str) -> str:
    """Return the directory at `path`, or the nearest above it, if this account may not look into it; else empty."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        return "" if os.access(real, os.R_OK | os.X_OK) else path
    above = os.path.dirname(real)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    return above if os.path.isdir(above) and not os.access(above, os.X_OK) else ""


def parse_leftover(document: bytes, *, has_control: bool) -> Leftover | None:
    """Return what a marker says; None when there is a pg_control: then the restore was at its end."""
    if has_control:
        return None
    try:
        made = json.loads(document)["directories"]
        return Leftover(tuple(str(directory) for directory in made))
    except (ValueError, KeyError, TypeError):
        return Leftover(())


def _leftover(destination: str) -> Leftover | None:
    """Return what an interrupted restore left here, or None when there is no such thing."""
    marker = os.path.join(destination, MARKER)
    if not os.path.lexists(marker):
        return None
    document = b""
    with contextlib.suppress(OSError), open(marker, "rb") as file:
        document = file.read()
    return parse_leftover(document, has_control=os.path.exists(os.path.join(destination, "global", "pg_control")))


def _in_work(destination: str) -> bool:
    """Tell whether another process restores into this directory right now."""
    try:
        fd = os.open(os.path.join(destination, MARKER), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def running(directory: str) -> int | None:
    """Return the pid of the server that runs in a data directory, or None."""
    try:
        with open(os.path.join(directory, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            pid = int(file.readline())
    except (OSError, ValueError):
        return None
    return pid if lives(pid) else None


def _inside_cluster(path: str) -> str:
    """Return the data directory (or the database's in it) that `path` is below; empty when there is none."""
    below = os.path.dirname(os.path.realpath(path))
    while below != os.path.dirname(below):
        if os.path.isfile(os.path.join(below, "PG_VERSION")):
            return below
        below = os.path.dirname(below)
    return ""
