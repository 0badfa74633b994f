"""Which backup's unchanged files a backup by rsync uses again, and which of them look unchanged."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.config import Server
from engine.errors import Refused
from engine.postgres.facts import ServerFacts
from engine.repository import locks, repository
from engine.repository.backupinfo import BackupInfo

_GRANULE = timedelta(seconds=2)
"""How far before the parent's copy a file must have changed for its time to tell: file systems' clocks are coarse."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A backup whose unchanged files are used again."""

    info: BackupInfo
    horizon: int
    """Seconds of the epoch: a file changed before it, and with the same size and time, is the same."""
    manifest: str
    bad: tuple[tuple[str, int], ...]
    """(path as in the manifest, block) of its pages that are known to be bad."""
    pages_checked: bool


def parent(server: Server, facts: ServerFacts) -> Parent | None:
    """Return the newest good backup of the same system and layout, None when there is none or none is wanted."""
    if server.reuse_backup == "off":
        return None
    layout = server.layout
    for info in repository.backups(layout):
        if _fits(info, facts) and os.path.isdir(layout.data(info.id)):
            own = repository.facts(layout, info.id)
            began = _time(own.get("copy_began")) or info.begin_time
            if began is None:
                continue
            bad = own.get("bad_pages", [])
            return Parent(
                info,
                int((began - _GRANULE).timestamp()),
                os.path.join(layout.data(info.id), "backup_manifest"),
                tuple((str(page["file"]), int(page["block"])) for page in bad),
                "checked_pages" in own,
            )
    return None


def _fits(info: BackupInfo, facts: ServerFacts) -> bool:
    """Tell whether a backup holds files with the server's own times: only copies by rsync do."""
    return (
        info.usable
        and info.method == "rsync"
        and not info.is_tar
        and info.encryption is None
        and info.systemid == facts.system_id
        and info.major == facts.major
    )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def held(server: Server, found: Parent | None) -> AbstractContextManager[object]:
    """Hold the parent's lock, so that no retention removes it meanwhile; raises Busy when somebody else has it."""
    if found is None:
        return nullcontext()
    return locks.hold(
        server.layout.lock(found.info.id),
        wait=server.lock_timeout,
        what=f"use the files of backup {found.info.id} again",
    )


def can_link(server: Server) -> None:
    """Raise Refused when the repository's file system has no hard links."""
    base = server.layout.base
    here, there = os.path.join(base, f".cellarman-{os.getpid()}"), os.path.join(base, f".cellarman-{os.getpid()}-link")
    try:
        with open(here, "xb"):
            os.link(here, there)
    except FileExistsError:
        return
    except OSError as error:
        raise Refused(
            f"files of {server.name}'s backups cannot be linked",
            f"the file system of {base} has no hard links: {error}",
            f'set reuse_backup = "copy" (or "off") in [servers.{server.name}]',
        ) from error
    finally:
        for path in (here, there):
            if os.path.lexists(path):
                os.unlink(path)


def looks_kept(place: bytes, size: int, modified: int, found: Parent) -> bool:
    """Tell whether the parent's file at `place` looks like the server's, and would have another time if it were not."""
    if modified >= found.horizon:
        return False
    try:
        facts = os.stat(place)
    except OSError:
        return False
    return facts.st_size == size and int(facts.st_mtime) == modified
