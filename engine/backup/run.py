"""What every backup does, however its files come here.

The catalogue follows Barman: EMPTY when the entry is made, STARTED when the begin is known, WAITING_FOR_WALS when the
copy is whole, DONE when the archive has its WAL from begin to end, FAILED with the reason otherwise.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from engine.backup import ending, lane, syncing, waiting
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Cancelled, CellarmanError
from engine.event import Reporter
from engine.faults import step
from engine.postgres import connection
from engine.postgres.facts import ServerFacts
from engine.repository import files, identity, locks, repository
from engine.repository.backupinfo import BackupInfo, Tablespace


def may_begin(server: Server, name: str | None) -> None:
    """Raise Busy when another backup runs, UsageError for a name that a new backup may not carry."""
    layout = server.layout
    if os.path.isdir(layout.locks) and locks.holder(layout.lock("backup")):
        locks.hold(layout.lock("backup"), what=_what(server)).release()
    if name is not None:
        repository.check_name(layout, name)


@contextlib.contextmanager
def place(server: Server, report: Reporter) -> Iterator[str]:
    """Give the id of a new backup, under the locks that it needs, once its WAL flows."""
    layout = server.layout
    repository.prepare(layout)
    with locks.hold(layout.lock("backup"), what=_what(server)):
        lane.open_lane(server, report)
        backup_id = repository.new_id(layout, datetime.now(timezone.utc))
        with locks.hold(layout.lock(backup_id), what=_what(server)):
            yield backup_id


def _what(server: Server) -> str:
    return f"back up {server.name}"


def entry(server: Server, facts: ServerFacts, backup_id: str, name: str | None, **more: Any) -> BackupInfo:
    """Return what is known of a backup before it begins; `more` is what its method adds."""
    return BackupInfo(
        backup_id,
        server_name=server.name,
        backup_name=name,
        version=facts.version_num,
        systemid=facts.system_id,
        xlog_segment_size=facts.segment_size,
        cluster_size=facts.cluster_size,
        pgdata=facts.data_directory,
        tablespaces=tuple(Tablespace(t.name, t.oid, t.location) for t in facts.tablespaces),
        config_file=facts.config_file,
        hba_file=facts.hba_file,
        ident_file=facts.ident_file,
        data_checksums="on" if facts.data_checksums else "off",
        summarize_wal=facts.settings.get("summarize_wal"),
        **more,
    )


@dataclass
class Run(ABC):
    """One backup on its way; `info` is what its backup.info says."""

    server: Server
    facts: ServerFacts
    report: Reporter
    job: str
    fast: bool
    """Whether the checkpoint is to be made at once."""
    info: BackupInfo

    @property
    def client(self) -> str:
        """What we call ourselves on the server."""
        return f"cellarman_backup_{self.info.id}"

    @property
    def placed(self) -> list[Tablespace]:
        """The tablespaces that are directories of their own: those inside PGDATA are copied with it."""
        return [t for t in self.info.tablespaces if os.path.isabs(t.location)]

    def attached(self) -> AbstractContextManager[object]:
        """Hold what the server must keep for us from begin to end."""
        return contextlib.nullcontext()

    @abstractmethod
    def begin(self) -> None:
        """Begin on the server and make the backup STARTED."""

    @abstractmethod
    def copy(self) -> None:
        """Have all files here."""

    @abstractmethod
    def end(self) -> dict[str, Any]:
        """End on the server; returns where the backup begins and ends, as backup.info says it."""

    def run(self) -> BackupInfo:
        """Take the backup and return it, DONE; else leave it FAILED, or WAITING_FOR_WALS when only WAL is missing."""
        self.report.backup(self.info.id)
        began = time.monotonic()
        try:
            with self.attached():
                self.begin()
                self.copy()
                ended = self.end()
            sizes = self._sync()
            copied = time.monotonic()
            self._wait_for_wal(ended, sizes, copied - began)
            self.save(status="DONE")
            step("backup.done")
        except waiting.WalMissing:
            raise
        except BaseException as error:
            self._fail(error)
            raise
        self.remember(copy_seconds=round(copied - began, 3), wal_seconds=round(time.monotonic() - copied, 3))
        return self.info

    def save(self, **changes: Any) -> None:
        """Change backup.info."""
        changed = replace(self.info, **changes)
        repository.save(self.server.layout, changed)
        self.info = changed

    def remember(self, **facts: Any) -> None:
        """Add to our own facts about the backup."""
        layout = self.server.layout
        repository.save_facts(layout, self.info.id, {**repository.facts(layout, self.info.id), **facts})

    def make_place(self, **facts: Any) -> None:
        """Make the backup's entry, EMPTY, and its directories; `facts` are what its method wants to be known."""
        layout = self.server.layout
        self.remember(
            job=self.job,
            client=self.client,
            server_version=self.facts.version,
            restore_settings=self.facts.restore_settings,
            settings=dict(self.facts.settings),
            **facts,
        )
        self.save(status="EMPTY")
        step("backup.empty")
        identity.write(layout, self.facts.system_id, self.facts.major)
        data = layout.data(self.info.id)
        for path in [data, *(layout.tablespace(self.info.id, t.oid) for t in self.placed)]:
            os.makedirs(path, mode=0o700)
        os.chmod(layout.backup(self.info.id), 0o755)

    def mark(self) -> None:
        """Make the restore point barman_<ID> and end the segment, so that its WAL is sent at once."""
        if self.facts.in_recovery:
            self.report.note("a standby ends no WAL segment: the last one comes when the primary has filled it")
            return
        name = f"barman_{self.info.id}"
        try:
            with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
                point = connection.create_restore_point(conn, name)
                self.remember(restore_point=name, restore_point_lsn=str(point))
                connection.switch_wal(conn)
                if self.server.streaming_archiver:
                    lane.write_a_little(conn)
        except CellarmanError as error:
            self.report.note(f"restore point and end of the WAL segment: {error}", "warn")

    def _sync(self) -> repository.Sizes:
        """Make the copy durable, with its place in the catalogue; returns how large it is.

        Its WAL is taken in meanwhile: the one waits for the disk, the other computes.
        """
        layout = self.server.layout
        self.report.phase("sync")
        with ThreadPoolExecutor(1) as beside:
            beside.submit(waiting.take_in, self.server)  # what goes wrong there goes wrong again when it is awaited
            sizes = repository.sizes(layout, self.info.id)
            syncing.sync_tree(layout.backup(self.info.id), self.report, sizes)
            files.sync_directory(layout.base)
        step("backup.synced")
        return sizes

    def _wait_for_wal(self, ended: dict[str, Any], sizes: repository.Sizes, seconds: float) -> None:
        self.save(
            **ended,
            size=sizes.size,
            deduplicated_size=sizes.deduplicated,
            copy_stats={"copy_time": round(seconds, 6), "total_time": round(seconds, 6)},
            status="WAITING_FOR_WALS",
        )
        step("backup.waiting")
        self.report.phase("wal", " to ".join(dict.fromkeys(filter(None, (self.info.begin_wal, self.info.end_wal)))))
        waiting.await_wal(self.server, self.info, self.report)

    def _fail(self, error: BaseException) -> None:
        """Leave the backup FAILED, with the reason and without what was copied.

        One that is whole is not thrown away: it waits for its WAL, unless the operator gave it up, and then keeps its
        files.
        """
        stopped = isinstance(error, (Cancelled, KeyboardInterrupt))
        status = self._status_on_disk()
        if status == "DONE" or (status == "WAITING_FOR_WALS" and not stopped):
            return
        try:
            if status == "WAITING_FOR_WALS":
                self.save(status="FAILED", error=ending.reason(error))
            else:
                ending.give_up(self.server, self.info, ending.reason(error), self.client, self.report)
        except (CellarmanError, OSError) as second:
            path = self.server.layout.backup_info(self.info.id)
            cron = cellarman("cron").line(self.server.named)
            self.report.note(f"{path} could not say that the backup failed: {second}; {cron} does", "error")

    def _status_on_disk(self) -> str:
        """Return what the disk says: an error may have come between the write and this process's knowing."""
        try:
            return repository.load(self.server.layout, self.info.id).status
        except CellarmanError:
            return self.info.status


_POSITION = (
    "begin_xlog", "begin_wal", "begin_offset", "end_xlog", "end_wal", "end_offset", "timeline",
)  # fmt: skip


def position(info: BackupInfo) -> dict[str, Any]:
    """Return where a backup begins and ends, as changes."""
    return {name: getattr(info, name) for name in _POSITION}


def outcome(server: Server, info: BackupInfo, remark: str = "") -> dict[str, Any]:
    """Return what a backup job says of a backup that is done."""
    seconds = (info.end_time - info.begin_time).total_seconds() if info.end_time and info.begin_time else 0.0
    words = f"{(info.size or 0) / 2**20:,.1f} MiB in {seconds:,.1f} s{remark}"
    return {
        "backup": info.id,
        "size_bytes": info.size,
        "seconds": round(seconds, 3),
        "summary": f"backup {info.id} of {server.name}: {words}, done",
    }
