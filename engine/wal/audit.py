"""The content audit: every archived segment is read whole, those read longest ago first, and what is bad is condemned.

A round reads each segment once; it may be interrupted at any time, and the next run goes on with it. What is bad is
written down in `condemned`, where the gap analysis, the windows, the plans and restore_command see it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from mmap import mmap

import google_crc32c

from engine.errors import CellarmanError
from engine.event import SILENT, Reporter
from engine.faults import step
from engine.postgres import recordruns, segment, walfile
from engine.postgres.clock import unix_time
from engine.repository import locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.wal import auditlog, codec, condemned, contentcheck, inspection
from engine.wal.auditlog import Identity, Log, Reading, Round
from engine.wal.contentcheck import Content, Ending
from engine.wal.inventory import histories, list_names
from engine.wal.scrutiny import begins_of, contradicted

_BATCH = 64
_COMMIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run brought, and where the round is."""

    read: int
    """Segments that this run read."""
    bytes: int
    """Of their plain content."""
    round: Round
    bad: tuple[Reading, ...]
    """All that is bad in the archive as far as it was read, whenever that was found."""
    unknown: tuple[tuple[str, str], ...]
    """(name or directory, why) of what could not be judged."""


def audit(
    layout: Layout,
    *,
    budget: float | None = None,
    rest: float = 0.0,
    urgent: Callable[[], bool] | None = None,
    report: Reporter = SILENT,
) -> Outcome:
    """Go on with the round, or begin a new one, until all is read, `budget` seconds are over, or `urgent` says that
    there is something better to do.

    While the last round began less than `rest` seconds ago, only what is new since is read. Raises Busy when another
    process reads, CellarmanError when the archive or the log cannot be used.
    """
    deadline = None if budget is None else time.monotonic() + budget
    must_be_there(layout)
    try:
        os.makedirs(layout.own, mode=0o750, exist_ok=True)
        lock = os.path.join(layout.own, "wal-audit.lock")
        with locks.hold(lock, what=f"read the WAL archive of {layout.name}"), Log(layout) as log:
            return Auditor(layout, log, report).run(deadline, rest, urgent)
    except (sqlite3.Error, OSError) as error:
        raise auditlog.cannot_write(layout, error) from error


def must_be_there(layout: Layout) -> None:
    """Raise CellarmanError when the archive is not there: then nothing in it is good, and nothing lost."""
    try:
        os.listdir(layout.wals)
    except OSError as error:
        raise CellarmanError(
            f"the WAL archive of {layout.name} cannot be read: {layout.wals}",
            error.strerror or str(error),
            "see that its file system is mounted, and that this account may read it",
        ) from error


class Auditor:
    """One run over the archive with the log open for writing."""

    def __init__(self, layout: Layout, log: Log, report: Reporter) -> None:
        self._layout, self._log, self._report = layout, log, report
        names = list_names(layout)
        self._names = names
        self._histories, _, _ = histories(layout, names.root)
        backups = repository.catalogue(layout).backups
        self._systems = _systems(layout, backups)
        self._begins = begins_of(info for info in backups if info.usable)
        self._magic = inspection.magic_of(layout, self._systems[0] if self._systems else None)
        self._read = self._bytes = 0

    def run(self, deadline: float | None, rest: float, urgent: Callable[[], bool] | None) -> Outcome:
        self._take_names()
        started = self._log.begin_round(rest)
        self._log.commit()
        before = self._log.round()
        total = before.read + before.left
        self._report.phase("verify", f"{before.left} of {total} segments")
        committed = time.monotonic()
        while names := self._log.due(started, _BATCH):
            for name in names:
                if (deadline is not None and time.monotonic() >= deadline) or (urgent is not None and urgent()):
                    return self._outcome()
                self._one(name)
                step("audit.read")
                if time.monotonic() - committed > _COMMIT_SECONDS:
                    self._log.commit()
                    committed = time.monotonic()
                self._report.progress(self._bytes, None, min(before.read + self._read, total), total)
        self._log.end_round()
        return self._outcome()

    def _outcome(self) -> Outcome:
        self._log.commit()
        unknown = (*self._names.unreadable, *self._log.unknown())
        return Outcome(self._read, self._bytes, self._log.round(), tuple(self._log.bad()), unknown)

    def _take_names(self) -> None:
        """Bring the log's names in line with the archive; what is bad and has changed since is read first."""
        known = self._log.directories()
        for directory, listing in self._names.directories.items():
            if not listing.mtime_ns or known.get(directory) != listing.mtime_ns:
                own = (f"{directory}{n:08X}" for first, last in listing.spans for n in range(first, last + 1))
                self._log.take_names(directory, listing.mtime_ns, own)
        unreadable = {os.path.basename(path) for path, _ in self._names.unreadable}
        for directory in known.keys() - self._names.directories.keys() - unreadable:
            self._log.forget_directory(directory)
        bad = {reading.name: reading for reading in self._log.bad()}
        for name, reading in bad.items():
            if _now(self._layout, name) != reading.identity:
                self._log.look_again(name)
            elif not reading.harmless and not condemned.reason(self._layout, name):
                self._condemn(reading)
        for name in condemned.names(self._layout):
            if name not in bad and not condemned.reason(self._layout, name):
                condemned.absolve(self._layout, name)

    def _one(self, name: str) -> None:
        """Read one segment and note what it is."""
        try:
            reading = self._judged(name)
        except FileNotFoundError:
            self._log.forget(name)
            condemned.absolve(self._layout, name)
            return
        self._read += 1
        if reading.problem and not reading.harmless:
            self._condemn(reading)
        elif not reading.unknown:
            condemned.absolve(self._layout, name)
        self._log.write(reading)

    def _condemn(self, reading: Reading) -> None:
        if reading.identity is not None and reading.problem:
            condemned.condemn(self._layout, reading.name, reading.identity, reading.problem)

    def _judged(self, name: str) -> Reading:
        known = self._log.reading(name)
        try:
            identity, raw = _read(self._layout.wal(name), self._layout.own)
        except FileNotFoundError:
            raise
        except OSError as error:
            why = f"it cannot be read: {error.strerror or error}"
            reading = Reading(name, *(_now(self._layout, name) or (0, 0, 0)), since=time.time_ns())
            return reading._replace(problem=why) if error.errno == errno.EIO else reading._replace(unknown=why)
        same = known if known is not None and known.identity == identity else None
        found = self._content(name, identity, raw, same)
        if found.problem and same is not None:
            # What it was when it was good tells that it changed, whenever that is asked again.
            found = found._replace(digest=same.digest)
        kept = same is not None and (found.problem is None or found.problem == same.problem)
        return found._replace(since=same.since if same is not None and kept else time.time_ns())

    def _content(self, name: str, identity: Identity, raw: bytes | mmap, same: Reading | None) -> Reading:
        """Judge the content of a file; `same` is what was read of this very file before."""
        reading = Reading(name, *identity)
        if _now(self._layout, name) != identity:
            return reading._replace(unknown="it changed while it was read")
        try:
            plain = codec.plain_apart(raw, _limit(self._layout.wal(name)), self._layout.own)
        except codec.Unreadable as error:
            if error.fix:
                return reading._replace(unknown=error.why or error.what)
            return reading._replace(problem=_damage(error))
        self._bytes += len(plain)
        before, ending = self._before(name, plain)
        found = self._checked(name, plain, (before, ending) if before and ending else None)
        if before and name in self._begins and contentcheck.CONTINUES in (found.problem or ""):
            alone = self._checked(name, plain)
            if not alone.problem:
                self._log.look_again(before)
                found = alone
        problem, digest = found.problem, _digest(plain)
        if not problem and found.header and found.ending:
            problem = self._contradicted(name, found.header.segment_size, found.ending)
        if not problem and found.blemish:
            problem = auditlog.HARMLESS + found.blemish
        system = str(found.header.system_id) if found.header else None
        if not problem and same is not None and same.digest is not None and same.digest != digest:
            problem = _rotten(same)
        if not problem and found.short and self._log.followed(name, system or ""):
            problem = f"{found.short}, and more follows in the next segment"
        return reading._replace(
            digest=None if problem else digest,
            problem=problem,
            short=found.short,
            system=system,
            ending=found.ending.packed() if found.ending and (found.blemish or not problem) else None,
            before=before if found.header else None,
            joined=ending.packed() if ending else None,
        )

    def _checked(self, name: str, plain: bytes, before: tuple[str, Ending] | None = None) -> Content:
        return contentcheck.check(
            name,
            plain,
            systems=self._systems,
            histories=self._histories,
            before=before,
            walk=recordruns.walk,
            magic=self._magic,
        )

    def _contradicted(self, name: str, size: int, ending: Ending) -> str | None:
        """Return that a backup begins in the next segment, which is right in itself and does not continue this one: it
        is the backup's history, and this one is of another."""
        timeline, number = segment.parse_segment(name, size)
        following = segment.segment_name(timeline, number + 1, size)
        backup = self._begins.get(following)
        path = self._layout.wal(following)
        if backup is None:
            return None
        try:
            plain = codec.plain_apart(_read(path, self._layout.own)[1], _limit(path), self._layout.own)
        except (CellarmanError, OSError):
            return None
        torn = self._checked(following, plain, (name, ending)).problem or ""
        if contentcheck.CONTINUES not in torn or self._checked(following, plain).problem:
            return None
        return contradicted(following, backup)

    def _before(self, name: str, plain: bytes) -> tuple[str | None, Ending | None]:
        """Return the segment that this one goes on from, and its ending when that is known."""
        try:
            before = contentcheck.predecessor(name, walfile.read_header(plain), self._histories)
        except (walfile.WalFormatError, ValueError):
            return None, None
        read = self._log.reading(before) if before else None
        if read is None or read.ending is None or _now(self._layout, read.name) != read.identity:
            return before, None
        return before, Ending.unpacked(read.ending)


def _read(path: str, room: str) -> tuple[Identity, bytes | mmap]:
    """Return a file's identity and content, from the disk itself as far as the kernel lets us; what is large is copied
    to a file without a name in the directory `room`, and mapped."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0):
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = min(found.st_size, codec.LARGEST_PLAIN) + 1
        data = codec.stored_apart(descriptor, size, room)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return condemned.identity(found), data


def _digest(plain: bytes | mmap) -> int:
    crc = 0
    for at in range(0, len(plain), codec.CHUNK):
        crc = google_crc32c.extend(crc, plain[at : at + codec.CHUNK])
    return crc


def _rotten(same: Reading) -> str:
    """Return that a file changed although its times say that nobody wrote to it."""
    return f"corrupt: its content is not what it was on {unix_time((same.since or 0) // 10**9):%Y-%m-%d %H:%M:%S%z}"


def _limit(path: str) -> int:
    """Return how many plain bytes a segment may have: as its header says, if it has one."""
    try:
        return int(walfile.read_header(codec.read_head(path, walfile.HEADER_SIZE)).segment_size)
    except (CellarmanError, OSError):
        return segment.MAX_SEGMENT_SIZE


def _damage(error: codec.Unreadable) -> str:
    why = error.why or error.what
    if why.startswith("it holds more than"):
        return f"wrong size: {why}"
    return f"{'truncated' if 'too early' in why else 'corrupt'}: {why}"


def _now(layout: Layout, name: str) -> Identity | None:
    try:
        return condemned.identity(os.stat(layout.wal(name)))
    except OSError:
        return None


def _systems(layout: Layout, backups: Iterable[BackupInfo]) -> tuple[int, ...]:
    """Return the systems whose WAL belongs here: the archive's own first, then those of older backups."""
    own = inspection.known_system(layout)
    found = [info.systemid for info in backups if info.systemid is not None]
    return tuple(dict.fromkeys([own, *found] if own is not None else found))
