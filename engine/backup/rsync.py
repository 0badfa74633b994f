"""A backup taken by rsync between pg_backup_start and pg_backup_stop, over SSH or on this host.

The files are listed once the server is in backup mode, shared out to several rsyncs, and read as they arrive, for the
manifest and for the checksums of their pages. Files that change, shrink or vanish meanwhile are normal: the WAL from
begin to end puts them right. global/pg_control comes last and alone.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import google_crc32c

from engine.amounts import counted
from engine.backup import badpages, copying, exclusions, preflight, reuse, rsyncpreflight, run, syncing
from engine.backup.arrival import Pages, Readers, crc32c
from engine.backup.bracket import Begun, Bracket
from engine.backup.copying import Copying
from engine.backup.inventory import Inventory, Part, Root
from engine.backup.rsyncpreflight import Ready
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import CellarmanError
from engine.event import SILENT, Reporter
from engine.faults import step
from engine.host import rsync
from engine.host.rsync import Entry, Transfer
from engine.host.shared import Shared
from engine.postgres import manifestwriter
from engine.postgres.backuplabel import parse_label
from engine.postgres.controlfile import read_control
from engine.postgres.manifestwriter import Written
from engine.repository import files, repository
from engine.repository.backupinfo import BackupInfo, Tablespace

_LOOK_EVERY = 500
"""Files of the listing after which it is said how far it is."""
_READERS = 2
_TELLING = 64 << 20
"""Bytes from which on the time that they take says how quick the link is."""
_NAMED = 20
"""Bad pages that get a line of their own in the log."""


def take(
    server: Server,
    *,
    name: str | None = None,
    immediate: bool | None = None,
    report: Reporter = SILENT,
    job: str = "",
) -> BackupInfo:
    """Take a backup and return it, DONE: every WAL segment that it needs is in the archive.

    `immediate` of None means the server's immediate_checkpoint. Raises Refused or HostError before anything is made
    when it cannot work, Busy when another backup runs; after that the backup is left FAILED with the reason, or
    WAITING_FOR_WALS when only WAL is missing.
    """
    run.may_begin(server, name)
    with Shared(rsyncpreflight.far_of(server)) as shared:
        ready = rsyncpreflight.examine(server, report, shared)
        with run.place(server, report) as backup_id, reuse.held(server, ready.parent, report):
            fast = server.immediate_checkpoint if immediate is None else immediate
            info = run.entry(server, ready.facts, backup_id, name, mode="rsync-concurrent")
            return _Run(server, ready.facts, report, job, fast, info, ready).run()


@dataclass
class _Reused:
    """What of the parent was used again."""

    files: int = 0
    bytes: int = 0


@dataclass
class _Run(run.Run):
    """One backup on its way."""

    ready: Ready
    reused: _Reused = field(default_factory=_Reused)
    _session: Bracket = field(init=False)
    _inventory: Inventory = field(init=False)
    _begun: Begun = field(init=False)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with Inventory() as self._inventory, Bracket(self.server, self.client) as self._session:
            yield

    def begin(self) -> None:
        parent = self.ready.parent
        self.make_place(
            shape="plain, by rsync" + (f", {self.ready.compress} on the way" if self.ready.compress else ""),
            rsync=f"{self.ready.here} here, {self.ready.there} there" if self.ready.far else str(self.ready.here),
            **({"reuse": self.server.reuse_backup, "reuse_of": parent.info.id} if parent else {}),
        )
        self.report.phase("checkpoint", "at once" if self.fast else "spread, as the server does it by itself")
        label = f"cellarman {self.server.name} {self.info.id}"
        self._begun = self._session.start(label, fast=self.fast, waiting=lambda: None)
        self.remember(copy_began=self._begun.ready.isoformat())
        self._look_at_tablespaces()
        self.save(
            **run.position(self.info.began(self._begun.lsn, self.facts.timeline)),
            begin_time=self._begun.asked,
            included_files=self._session.included_files(),
            status="STARTED",
        )
        step("backup.started")

    def _look_at_tablespaces(self) -> None:
        """Take the tablespaces that there are now: the checkpoint may have taken minutes."""
        found = tuple(Tablespace(t.name, t.oid, t.location) for t in self._session.tablespaces())
        self.info = replace(self.info, tablespaces=found)
        for tablespace in self.placed:
            os.makedirs(self.server.layout.tablespace(self.info.id, tablespace.oid), mode=0o700, exist_ok=True)

    def _roots(self) -> list[Root]:
        layout, pgdata = self.server.layout, self.ready.pgdata
        parent = self.ready.parent.info.id if self.ready.parent else ""
        limits = dict(self.server.tablespace_bandwidth_limit)
        kept = [posixpath.basename(t.location) for t in self.info.tablespaces if not os.path.isabs(t.location)]
        data = exclusions.of_data(pgdata, [t.location for t in self.placed], kept)
        roots = [Root(0, pgdata, layout.data(self.info.id), data, layout.data(parent) if parent else "")]
        for t in self.placed:
            before = layout.tablespace(parent, t.oid) if parent else ""
            roots.append(
                Root(
                    t.oid,
                    t.location,
                    layout.tablespace(self.info.id, t.oid),
                    exclusions.of_tablespace(self.facts.major),
                    before if os.path.isdir(before) else "",
                    limits.get(t.name, 0),
                )
            )
        return roots

    def copy(self) -> None:
        self.report.phase("copy", "listing the files")
        roots = self._roots()
        for root in roots:
            self._list(root)
        parent = self.ready.parent
        if parent is not None:
            self._inventory.learn(parent.manifest)
        parts = self._inventory.parts(roots, self.server.parallel_jobs)
        try:
            self._transfer(roots, parts)
        finally:
            for part in parts:
                part.close()
        step("backup.copied")

    def _list(self, root: Root) -> None:
        """Take what there is of a root into the inventory, and make its directories."""
        parent = self.ready.parent if root.parent else None

        def take(entry: Entry) -> None:
            if entry.directory:
                if entry.path != b".":
                    place = os.path.join(os.fsencode(root.destination), entry.path)
                    os.makedirs(place, mode=0o700, exist_ok=True)
                    os.chmod(place, (entry.mode & 0o777) | 0o700)
                return
            if exclusions.is_temporary(entry.path) or (not root.number and entry.path == exclusions.CONTROL):
                return
            kept = parent is not None and reuse.looks_kept(
                os.path.join(os.fsencode(root.parent), entry.path), entry.size, entry.modified, parent
            )
            self._inventory.add(root, entry.path, entry.size, entry.modified, kept=kept)
            if self._inventory.files % _LOOK_EVERY == 0:
                self._session.beat()
                self.report.progress(0, self._inventory.bytes, 0, self._inventory.files)

        lost = rsync.listing(root.source, self.ready.near, take, exclude=root.exclude, links="follow")
        for text in lost:
            self.report.note(text, "warn" if text.startswith("symlink") else "info")

    def _transfer(self, roots: list[Root], parts: list[Part]) -> None:
        inventory, server, ready, parent = self._inventory, self.server, self.ready, self.ready.parent
        limited = server.bandwidth_limit or server.tablespace_bandwidth_limit
        whole = ready.far is not None and parent is not None and parent.sends_whole and not limited
        coming = inventory.bytes - inventory.kept_bytes
        preflight.room(server, preflight.HEADROOM + (inventory.bytes if server.reuse_backup == "copy" else coming))
        if parent is not None:
            self.report.note(
                f"{_mib(inventory.kept_bytes)} look unchanged since backup {parent.info.id}; {_mib(coming)} to copy"
                + (", whole: the link is quick" if whole else "")
            )
        pages = None
        if self.facts.data_checksums:
            pages = Pages(int(self._begun.lsn), self.ready.page_size, self.ready.segment_pages)
        with Readers(_READERS, pages, inventory.arrive) as readers:
            work = Copying(server, ready.far, ready.near, ready.compress, whole, self.report, readers)

            def look() -> None:
                self._session.beat()
                readers.complain()
                inventory.take_in()
                while work.finished:
                    self._settle(work.finished.popleft(), readers)
                done = min(work.done_bytes + work.moving, coming)
                here = min(inventory.seen, inventory.files)
                self.report.progress(done, coming, here, inventory.files, work.lanes)

            began = time.monotonic()
            with syncing.written_early(server.layout.home):
                work.run(parts, look)
            seconds = time.monotonic() - began
        inventory.take_in()
        with Readers(1, pages, inventory.arrive) as late:
            self._ask_again(roots, late)
            self._external_files(roots[0], late)
            self._control(roots[0], late)
        inventory.take_in()
        self.report.progress(coming, coming, inventory.files, inventory.files)
        self._tell_pages({root.number: root for root in roots}, readers, late)
        if parent is not None:
            self.remember(reused_files=self.reused.files, reused_bytes=self.reused.bytes)
        if (parent is None or whole) and coming >= _TELLING and not (work.cut or limited):
            self.remember(whole_rate=int(coming / seconds))
        elif parent is not None and parent.rate is not None:
            self.remember(whole_rate=parent.rate)

    def _settle(self, part: Part, readers: Readers) -> None:
        """Look after the files of a part that rsync did not transfer: those that are the parent's, or copies of its."""
        if not part.kept:
            return
        parent = self.ready.parent
        trusted = parent is not None and (parent.pages_checked or not self.facts.data_checksums)
        while rows := self._inventory.unseen(part):
            ours: list[tuple[int, int, float, str]] = []
            for row in rows:
                try:
                    facts = os.lstat(os.path.join(os.fsencode(part.root.destination), row.path))
                except FileNotFoundError:
                    continue
                if facts.st_nlink > 1:
                    self.reused.files += 1
                    self.reused.bytes += facts.st_size
                    if trusted and row.old_checksum and row.old_size == facts.st_size:
                        ours.append((row.id, facts.st_size, facts.st_mtime, row.old_checksum))
                    else:
                        readers.read(part.root, row.path)
                elif self.server.reuse_backup == "copy" and facts.st_size == row.size:
                    readers.read(part.root, row.path)
            self._inventory.reuse(ours)

    def _ask_again(self, roots: list[Root], readers: Readers) -> None:
        """Ask once more for what is not here, or not whole: what does not come then is gone on the server."""
        missing = self._inventory.missing()
        gone = 0
        for root in roots:
            names = missing.get(root.number, [])
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(os.fsencode(root.destination), name))
            if names:
                came: list[bytes] = []
                self._small(replace(self._bare(root), files=names), came)
                for path in came:
                    readers.read(root, path)
                gone += len(names) - len(came)
        if gone:
            self.report.note(f"{gone} file{'' if gone == 1 else 's'} went away meanwhile, as the server's files do")

    def _bare(self, root: Root) -> Transfer:
        """Return a transfer of a root without any parent."""
        transfer = copying.transfer_of(self.server, root, self.ready.near, self.ready.compress, 1)
        return replace(transfer, link_dest="", copy_dest="")

    def _small(self, transfer: Transfer, came: list[bytes]) -> None:
        rsync.move(transfer, lambda _: self._session.beat(), arrived=came.append)

    def _external_files(self, data: Root, readers: Readers) -> None:
        """Copy the configuration files that lie outside the data directory into the copy, as Barman has it."""
        for path in (self.info.config_file, self.info.hba_file, self.info.ident_file):
            if path is None or posixpath.dirname(path) == data.source or path.startswith(f"{data.source}/"):
                continue
            name = os.fsencode(posixpath.basename(path))
            transfer = replace(self._bare(data), source=posixpath.dirname(path), files=[name])
            try:
                came: list[bytes] = []
                self._small(replace(transfer, ignore_times=True), came)
            except CellarmanError as error:
                self.report.note(f"{path} is not in the backup: {error.why or error.what}", "warn")
                continue
            for _ in came:
                self._inventory.add_late(data, name)
                readers.read(data, name)
            if not came:
                self.report.note(f"{path} is not there, and not in the backup", "warn")

    def _control(self, data: Root, readers: Readers) -> None:
        """Copy global/pg_control, last; raises CellarmanError when it is another cluster's by now."""
        came: list[bytes] = []
        self._small(replace(self._bare(data), files=[exclusions.CONTROL], ignore_times=True), came)
        place = os.path.join(data.destination, os.fsdecode(exclusions.CONTROL))
        try:
            with open(place, "rb") as file:
                found = read_control(file.read()).system_id
        except OSError as error:
            raise CellarmanError("the backup has no pg_control", str(error), "back up again") from error
        if found != self.facts.system_id:
            raise CellarmanError(
                f"{data.source} became another cluster during the backup",
                f"its system identifier is {found}, it was {self.facts.system_id}",
                f"see what happened to {self.server.name}; a cluster that was made anew needs a server name of its own",
            )
        self._inventory.add_late(data, exclusions.CONTROL)
        readers.read(data, exclusions.CONTROL)

    def _tell_pages(self, roots: dict[int, Root], *readers: Readers) -> None:
        """Say which pages are bad, here and in what was used again; they do not make the backup fail."""
        if not self.facts.data_checksums:
            return
        is_bad = badpages.judge(int(self._begun.lsn), self.ready.page_size)
        found = badpages.confirm(
            chain.from_iterable(reader.bad for reader in readers),
            roots,
            self.ready.near,
            is_bad,
            self.ready.page_size,
            self.ready.segment_pages,
        )
        parent = self.ready.parent
        known = {(page.file, page.block) for page in found}
        for file, block in parent.bad if parent else ():
            if (file, block) not in known and self._inventory.is_reused(os.fsencode(file)):
                found.append(repository.BadPage(file, block))
        named = badpages.name(found[: badpages.MOST], self.server.conninfo, self.server.check_timeout)
        for page in named[:_NAMED]:
            self.report.note(f"bad page: {page}: its checksum does not match, on the server too", "warn")
        if len(found) > _NAMED:
            self.report.note(f"{counted(len(found), 'bad page')} in all", "warn")
        self.remember(
            checked_pages=sum(reader.checked_pages for reader in readers),
            bad_pages=[page._asdict() for page in (*named, *found[len(named) :])],
        )

    def end(self) -> dict[str, Any]:
        """End the backup on the server, and give the copy its label and its manifest."""
        stopped = self._session.stop()
        found = parse_label(stopped.label)
        timeline = found.timeline or self.facts.timeline
        if stopped.timeline != timeline:
            raise CellarmanError(
                "the server changed its timeline during the backup",
                f"it began on timeline {timeline} and ended on {stopped.timeline}",
                "back up again",
            )
        data = self.server.layout.data(self.info.id)
        label = stopped.label.encode("utf-8", "surrogateescape")
        files.replace(os.path.join(data, "backup_label"), label, mode=0o644)
        os.chmod(os.path.join(data, "backup_label"), 0o644)
        written = Written(
            b"backup_label",
            len(label),
            stopped.at.timestamp(),
            crc32c(google_crc32c.value(label)).partition(":")[2],
        )
        manifestwriter.write(
            os.path.join(data, "backup_manifest"),
            chain([written], self._inventory.written()),
            timeline=timeline,
            start=found.start_lsn,
            end=stopped.lsn,
        )
        step("backup.labelled")
        self.mark()
        placed = self.info.began(found.start_lsn, timeline).ended(stopped.lsn, timeline)
        return {**run.position(placed), "end_time": stopped.at, "backup_label": stopped.label}


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Take a backup as a job; `arguments` are those of `take`."""
    info = take(server, report=report, job=job, **arguments)
    own = repository.facts(server.layout, info.id)
    remark = ""
    if own.get("reused_files"):
        remark = f", {_mib(own['reused_bytes'])} of it shared with {own['reuse_of']}"
    bad = len(own.get("bad_pages", ()))
    if bad:
        show = cellarman("show", server.name, info.id).line(config.named)
        remark += f", {counted(bad, 'bad page')}: {show}"
    return {
        **run.outcome(server, info, remark),
        "reused_bytes": own.get("reused_bytes", 0),
        "bad_pages": own.get("bad_pages", []),
    }
