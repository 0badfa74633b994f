"""What the disk tells of one server, read cheaply again and again: only what changed since the last look."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from zlib import crc32

from engine.config import Server
from engine.postgres import segment
from engine.postgres.clock import pg_time
from engine.postgres.timeline import Lineage
from engine.repository import files, locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.repository.chain import Chains
from engine.repository.layout import Layout
from engine.repository.repository import BadPage, Catalogue
from engine.status.values import Wal, Window
from engine.wal import accepted, condemned, listing, refused
from engine.wal.gaps import Archive, NoLineage, Reach, core_range, newest_readable, reach, resolve
from engine.wal.judgement.values import Finding as WalFinding

GOOD_FOR = 60
"""Seconds that a judgement holds while no directory changes."""
LATEST = 12
"""So many of the newest segments tell the usual pause."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What `engine.wal.findings` says of one server's WAL, from the disk alone."""

    archive: Archive
    """With what in it satisfies nothing."""
    findings: tuple[WalFinding, ...] = ()
    """Worst first."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far restores of one server get."""

    windows: tuple[Window, ...] = ()
    """Oldest first."""
    open_end: bool = True
    """Whether the newest backup that can be restored gets to the end of the archive."""
    archived_until: datetime | None = None


class Reader:
    """Reads one server's part of the repository; keeps what need not be read again."""

    def __init__(self, server: Server, *, good_for: int = GOOD_FOR) -> None:
        self.server = server
        self._good_for = good_for
        self._turn = crc32(server.name.encode())
        """Has each server judged at a time of its own, not all of them in one moment."""
        self.layout: Layout = server.layout
        self._catalogue: tuple[object, Catalogue] | None = None
        self._bad_pages: tuple[Catalogue, tuple[BadPage, ...]] | None = None
        self._lacking: tuple[Catalogue, dict[str, str]] | None = None
        self._judged: tuple[object, Judged] | None = None
        self._reached: tuple[object, Reached] | None = None

    def catalogue(self) -> Catalogue:
        """Return the catalogue, read again only when a directory of it has changed."""
        marks = tuple(_changed(path) for path in (self.layout.meta, self.layout.base))
        if self._catalogue is None or self._catalogue[0] != marks:
            self._catalogue = (marks, repository.catalogue(self.layout))
        return self._catalogue[1]

    def bad_pages(self, catalogue: Catalogue) -> tuple[BadPage, ...]:
        """Return the bad pages that the newest usable backup is known to hold, read again with the catalogue."""
        if self._bad_pages is None or self._bad_pages[0] is not catalogue:
            facts = repository.facts(self.layout, catalogue.usable[0].id) if catalogue.usable else {}
            self._bad_pages = (catalogue, repository.bad_pages(facts) or ())
        return self._bad_pages[1]

    def lacking(self, catalogue: Catalogue) -> Mapping[str, str]:
        """Return why usable backups cannot be restored all the same, by id: their files, or those of one that they rest
        on, are gone. Looked at again with the catalogue."""
        if self._lacking is None or self._lacking[0] is not catalogue:
            chains = Chains(self.layout)
            self._lacking = (catalogue, {i.id: why for i in catalogue.usable if (why := chains.lacking(i))})
        return self._lacking[1]

    def judged(self, catalogue: Catalogue, now: datetime) -> Judged:
        """Return the judgement on the WAL, made again only when a directory has changed, or some time has passed: files
        may have changed in place, and what might still come is lost after a while."""
        layout = self.layout
        paths = (
            layout.index,
            f"{layout.index}-wal",
            condemned.directory(layout),
            accepted.path(layout),
            layout.incoming,
            layout.streaming,
        )
        turn = (int(now.timestamp()) + self._turn) // self._good_for
        marks = (turn, id(catalogue), *map(_changed, paths), *_archive_directories(layout.wals))
        if self._judged is None or self._judged[0] != marks:
            judged = _judge(self.server, now, catalogue)
            before = self._judged[1] if self._judged else judged
            # An equal one stays the same object, so that what was reckoned from it holds.
            self._judged = (marks, before if before == judged else judged)
        return self._judged[1]

    def reached(self, catalogue: Catalogue, judged: Judged) -> Reached:
        """Return how far restores get, reckoned again only when the catalogue, the archive or its index has changed:
        that tells the times of commits, of a new segment perhaps a moment later."""
        marks = (id(catalogue), id(judged), *(_changed(self.layout.index + end) for end in ("", "-wal")))
        if self._reached is None or self._reached[0] != marks:
            whole = [info for info in catalogue.usable if info.id not in self.lacking(catalogue)]
            self._reached = (marks, _reached(self.layout, whole, judged.archive))
        return self._reached[1]

    def wal(self, archive: Archive) -> Wal:
        """Return the newest segment, the queues, and whether WAL is being received."""
        timeline = max(archive.segments, default=1)
        newest = [archive.name(timeline, number) for number in reversed(archive.segments.get(timeline, ())[-LATEST:])]
        times = [at for at in (_written(listing.locate(self.layout, name)) for name in newest) if at is not None]
        pauses = [later - earlier for later, earlier in pairwise(times)]
        queued = [*_queue(self.layout.incoming), *_queue(self.layout.streaming)]
        since = [at for at in map(_written, queued) if at is not None]
        return Wal(
            newest=newest[0] if newest else "",
            newest_at=times[0] if times else None,
            usual_pause=max(pauses) if len(pauses) >= LATEST // 2 else None,
            queued=len(queued),
            queued_since=min(since) if since else None,
            refused=tuple(refused.unsettled(self.layout)),
            receiving=locks.holder(self.layout.lock("receive-wal")) is not None,
        )


def _judge(server: Server, now: datetime, catalogue: Catalogue) -> Judged:
    from engine.wal import findings  # what takes no look at WAL loads none of it

    return Judged(*findings.at_a_glance(server, now, catalogue))


def _reached(layout: Layout, backups: Sequence[BackupInfo], archive: Archive) -> Reached:
    found: list[Window] = []
    open_end = True
    until: datetime | None = None
    covered: int | None = None
    """The last segment that the backup before reaches; None is all."""
    before: tuple[Lineage, int] | None = None
    for info in sorted(backups, key=lambda b: b.id):
        reached = _reach(info, archive) if info.xlog_segment_size == archive.segment_size else None
        if reached is None or info.end_time is None:
            continue
        lineage, far, last = reached
        if found and before == (lineage, last):
            end = max(found[-1].end, info.end_time)  # it reads on to where the older one got, and finds nothing more
        else:
            name = archive.name(lineage.canonical(last, archive.segment_size), last)
            until = _written(listing.locate(layout, name)) or info.end_time
            end = max(_last_commit(layout, info, lineage, last, archive) or until, info.end_time)
        before = (lineage, last)
        begin = info.end_time
        if found and (covered is None or covered >= segment.segment_before(info.end_xlog or 1, archive.segment_size)):
            begin, end = found[-1].begin, max(found[-1].end, end)
            found.pop()
        open_end = far.end_kind == "open_end"
        covered = None if open_end else last
        found.append(Window(begin, end))
    return Reached(tuple(found), open_end, until)


def _last_commit(layout: Layout, info: BackupInfo, lineage: Lineage, last: int, archive: Archive) -> datetime | None:
    """Return the time of the latest commit that the index knows from a backup's end to segment `last`."""
    from engine.wal import index

    first = segment.segment_before(info.end_xlog or 1, archive.segment_size)
    for span in reversed(lineage.spans):
        newest = index.highest_time(layout, span.timeline, first, last)
        if newest is not None:
            return pg_time(newest)
    return None


def _reach(info: BackupInfo, archive: Archive) -> tuple[Lineage, Reach, int] | None:
    """Return how far a backup gets on which lineage, and the last segment; None when it lacks WAL to be consistent."""
    if info.begin_xlog is None or info.end_xlog is None:
        return None
    timeline = info.timeline or 1
    lineage = resolve(str(newest_readable(archive, timeline)), timeline, info.begin_xlog, archive)
    if isinstance(lineage, NoLineage):
        lineage = resolve("current", timeline, info.begin_xlog, archive)
    if isinstance(lineage, NoLineage):
        return None
    first, last = core_range(info.begin_xlog, info.end_xlog, archive.segment_size)
    far = reach(archive, lineage, first)
    return None if far.last is None or far.last < last else (lineage, far, far.last)


def _archive_directories(wals: str) -> list[tuple[str, int]]:
    """Return the archive's directories, itself included, each with the time that it was changed."""
    found = [("", _changed(wals))]
    try:
        with os.scandir(wals) as entries:
            found += [(entry.name, entry.stat().st_mtime_ns) for entry in entries if len(entry.name) == 16]
    except FileNotFoundError:
        return found
    return sorted(found)


def _queue(directory: str) -> list[str]:
    return [
        os.path.join(directory, name) for name in files.listed(directory) if segment.kind_of(name) == segment.SEGMENT
    ]


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0


def _written(path: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
    except FileNotFoundError:
        return None
