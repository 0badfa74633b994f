"""Where a restore may write, and why not: looked at before anything is made."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.config import Server
from engine.errors import Refused

MARKER = "cellarman-restore-incomplete.json"
"""In a data directory from its first byte until it is whole; holds the tablespace directories made with it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tablespace and where it goes."""

    name: str
    oid: int
    source: str
    """Its location on the original server."""
    directory: str
    """Its location after the restore."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an interrupted restore left at the destination; it cannot start and may be removed."""

    directories: tuple[str, ...]


def leftover(destination: str) -> Leftover | None:
    """Return what an interrupted restore left here, or None when there is no such thing."""
    try:
        with open(os.path.join(destination, MARKER), encoding="utf-8") as file:
            made = json.load(file)["directories"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        made = []
    if os.path.exists(os.path.join(destination, "global", "pg_control")):
        return None
    return Leftover(tuple(str(d) for d in made))


def in_work(destination: str) -> bool:
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


def refusals(
    server: Server, destination: str, tablespaces: Sequence[Placed], *, uid: int, state_directory: str = ""
) -> list[Refused]:
    """Return why nothing may be written there; empty when it may. Changes nothing.

    `state_directory` is Cellarman's own: jobs and journals are in it.
    """
    found: list[Refused] = []
    for path in (destination, *(space.directory for space in tablespaces)) if state_directory else ():
        real, holder = os.path.realpath(path), os.path.realpath(state_directory)
        if _within(real, holder) or _within(holder, real):
            why = f"{state_directory} holds the journals of jobs"
            found.append(Refused(f"{path} lies in Cellarman's own directory", why, "choose another directory"))
    if uid == 0:
        found.append(
            Refused(
                "a restore is not done as root",
                "PostgreSQL starts neither as root nor in a directory that root owns",
                "run it as the account that PostgreSQL runs as: sudo -u postgres cellarman restore …",
            )
        )
    left = leftover(destination)
    if in_work(destination):
        found.append(Refused(f"another restore into {destination} is running", "", "cellarman jobs"))
    found += _directory(server, destination, "the destination", uid, ours=left is not None)
    seen: dict[str, str] = {os.path.realpath(destination): "the destination"}
    for space in tablespaces:
        what = f"the place of tablespace {space.name}"
        owned = left is not None and os.path.realpath(space.directory) in left.directories
        found += _directory(
            server, space.directory, what, uid, ours=owned, option=f"--tablespace {shlex.quote(space.name)}=DIR"
        )
        found += _overlap(os.path.realpath(space.directory), what, seen)
        seen[os.path.realpath(space.directory)] = what
    return found


def _directory(
    server: Server, path: str, what: str, uid: int, *, ours: bool = False, option: str = ""
) -> list[Refused]:
    """Return why a new cluster's files cannot go to `path`."""
    fix = f"choose another directory with {option}" if option else "choose a directory that is empty or does not exist"
    inside = _inside_repository(server, path)
    if inside:
        return [Refused(f"{what} {path} lies in the repository", f"{inside} holds backups", fix)]
    cluster = _inside_cluster(path)
    if cluster:
        return [
            Refused(f"{what} {path} lies in a PostgreSQL data directory", f"{cluster} is one, with a PG_VERSION", fix)
        ]
    if not os.path.lexists(path):
        return _parent(path, what, fix)
    if not os.path.exists(path):
        why = f"it is a symbolic link to {os.readlink(path)}, and there is nothing"
        return [Refused(f"{what} {path} leads nowhere", why, fix)]
    if not os.path.isdir(path):
        return [Refused(f"{what} {path} is not a directory", "", fix)]
    if os.stat(path).st_uid != uid and uid != 0:
        why = f"it belongs to account {os.stat(path).st_uid}; PostgreSQL runs only in a directory of its own"
        return [
            Refused(f"{what} {path} belongs to another account", why, f"{fix}, or sudo chown {uid} {shlex.quote(path)}")
        ]
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return [Refused(f"{what} {path} is not writable", "permission denied", fix)]
    names = os.listdir(path)
    return [] if not names or ours else [_occupied(path, what, names, fix)]


def _parent(path: str, what: str, fix: str) -> list[Refused]:
    """Return why `path` cannot be made."""
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        return [Refused(f"{what} {path} cannot be made", f"{parent} is not a directory", fix)]
    if not os.access(parent, os.W_OK | os.X_OK):
        fix = f"make it as root: install -d -o {os.geteuid()} -m 0700 {shlex.quote(path)}; or {fix}"
        return [Refused(f"{what} {path} cannot be made", f"{parent} is not writable by this account", fix)]
    return []


def _occupied(path: str, what: str, names: Sequence[str], fix: str) -> Refused:
    pid = running(path)
    if pid:
        return Refused(
            f"{what} {path} is a running server's data directory",
            f"its postmaster.pid names process {pid}, which runs",
            fix,
        )
    if "PG_VERSION" in names:
        return Refused(f"{what} {path} is not empty", "it holds a PostgreSQL data directory", fix)
    shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
    return Refused(f"{what} {path} is not empty", f"it holds {shown}", fix)


def running(directory: str) -> int | None:
    """Return the pid of the server that runs in a data directory, or None."""
    try:
        with open(os.path.join(directory, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            pid = int(file.readline())
    except (OSError, ValueError):
        return None
    return pid if alive(pid) else None


def alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _inside_repository(server: Server, path: str) -> str:
    """Return the directory of the repository that `path` is in, or that is in `path`; empty when neither."""
    real = os.path.realpath(path)
    layout = server.layout
    for directory in (server.barman_home, *layout.directories()):
        holder = os.path.realpath(directory) if directory else ""
        if holder and (_within(real, holder) or _within(holder, real)):
            return directory
    return ""


def _inside_cluster(path: str) -> str:
    """Return the data directory (or the database's in it) that `path` is below; empty when there is none."""
    below = os.path.dirname(os.path.realpath(path))
    while below != os.path.dirname(below):
        if os.path.isfile(os.path.join(below, "PG_VERSION")):
            return below
        below = os.path.dirname(below)
    return ""


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _overlap(path: str, what: str, seen: Mapping[str, str]) -> list[Refused]:
    for other, name in seen.items():
        if _within(path, other) or _within(other, path):
            return [Refused(f"{what} {path} and {name} {other} overlap", "", "give each its own directory")]
    return []


def free_bytes(path: str) -> int:
    """Return the bytes that an unprivileged account may still write on the file system that `path` is or will be on."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def device(path: str) -> int:
    """Return the file system that `path` is or will be on."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.stat(path).st_dev
