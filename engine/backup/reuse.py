"""Which backup's unchanged files a backup by rsync uses again, and which of them look unchanged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.config import Server
from engine.errors import Busy, Refused
from engine.event import Reporter
from engine.postgres.facts import ServerFacts
from engine.repository import locks, repository
from engine.repository.backupinfo import BackupInfo

_GRANULE = timedelta(seconds=2)
"""How far before the parent's copy a file must have changed for its time to tell: file systems' clocks are coarse."""

_QUICK = 100 << 20
"""Bytes a second from which on a file is sent sooner than the parent's is read to compare it."""


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
    rate: int | None
    """Bytes of files a second that came when it, or an earlier one, was copied whole; None when that is not known."""

    @property
    def sends_whole(self) -> bool:
        """Whether files that changed since are better sent whole, not compared with the parent's."""
        return self.rate is not None and self.rate >= _QUICK


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
                _number(own.get("whole_rate")),
            )
    return None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


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


@contextlib.contextmanager
def held(server: Server, found: Parent | None, report: Reporter) -> Iterator[None]:
    """Hold the parent's lock, so that no retention removes it meanwhile.

    Where somebody else holds it, the backup goes on: were the parent to be removed, its files would come anew.
    """
    with contextlib.ExitStack() as stack:
        if found is not None:
            try:
                what = f"keep backup {found.info.id} meanwhile"
                stack.enter_context(locks.hold(server.layout.lock(found.info.id), what=what, shared=True))
            except Busy as busy:
                report.note(f"{busy.what}: {busy.why}")
        yield


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
