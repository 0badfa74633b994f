"""A backup taken with pg_basebackup, from preflight to DONE.

The catalogue follows Barman: EMPTY when the entry is made, STARTED when the begin is known, WAITING_FOR_WALS when the
copy is whole, DONE when the archive has its WAL from begin to end, FAILED with the reason otherwise. The begin is
corrected from the finished backup_label; the end is how far the server has written WAL after the copy.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from engine.backup import basebackup, ending, label, lane, preflight, syncing, waiting
from engine.backup.basebackup import Call, Tick
from engine.backup.monitor import ARCHIVING, Monitor
from engine.backup.preflight import Ready
from engine.config import Server
from engine.errors import Cancelled, CellarmanError
from engine.event import SILENT, Reporter
from engine.faults import step
from engine.postgres import connection
from engine.postgres.backuplabel import parse_label
from engine.postgres.connection import ConnectionFailed
from engine.postgres.lsn import Lsn
from engine.postgres.manifest import ManifestFile, scan_manifest
from engine.repository import files, identity, locks, repository
from engine.repository.backupinfo import BackupInfo, Tablespace

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, so that a server that vanished is noticed within a minute."""


def take(
    server: Server,
    *,
    name: str | None = None,
    immediate: bool | None = None,
    report: Reporter = SILENT,
    job: str = "",
) -> BackupInfo:
    """Take a backup and return it, DONE: every WAL segment that it needs is in the archive.

    `immediate` of None means the server's immediate_checkpoint. Raises Refused before anything is made when it cannot
    work, Busy when another backup runs; after that the backup is left FAILED with the reason, or WAITING_FOR_WALS when
    only WAL is missing.
    """
    layout = server.layout
    what = f"back up {server.name}"
    if os.path.isdir(layout.locks) and locks.holder(layout.lock("backup")):
        locks.hold(layout.lock("backup"), what=what).release()
    if name is not None:
        repository.check_name(layout, name)
    ready = preflight.examine(server, report)
    repository.prepare(layout)
    with locks.hold(layout.lock("backup"), what=what):
        lane.open_lane(server, report)
        backup_id = repository.new_id(layout, datetime.now(timezone.utc))
        with locks.hold(layout.lock(backup_id), what=what):
            fast = server.immediate_checkpoint if immediate is None else immediate
            return _Run(server, ready, report, job, fast, _entry(server, ready, backup_id, name)).run()


def _entry(server: Server, ready: Ready, backup_id: str, name: str | None) -> BackupInfo:
    """Return what is known of the backup before it begins."""
    facts = ready.facts
    return BackupInfo(
        backup_id,
        server_name=server.name,
        mode="postgres",
        backup_name=name,
        version=facts.version_num,
        systemid=facts.system_id,
        xlog_segment_size=facts.segment_size,
        compression=ready.shape.compression,
        cluster_size=facts.cluster_size,
        pgdata=facts.data_directory,
        tablespaces=tuple(Tablespace(t.name, t.oid, t.location) for t in facts.tablespaces),
        config_file=facts.config_file,
        hba_file=facts.hba_file,
        ident_file=facts.ident_file,
        data_checksums="on" if facts.data_checksums else "off",
        summarize_wal=facts.settings.get("summarize_wal"),
    )


@dataclass
class _Run:
    """One backup on its way; `info` is what its backup.info says."""

    server: Server
    ready: Ready
    report: Reporter
    job: str
    fast: bool
    info: BackupInfo

    @property
    def client(self) -> str:
        """What our pg_basebackup calls itself on the server."""
        return f"cellarman_backup_{self.info.id}"

    def run(self) -> BackupInfo:
        self.report.backup(self.info.id)
        began = time.monotonic()
        try:
            self._begin()
            self._copy()
            ended = self._end()
            sizes = self._sync()
            copied = time.monotonic()
            self._wait_for_wal(ended, sizes, copied - began)
            self._save(status="DONE")
            step("backup.done")
        except waiting.WalMissing:
            raise
        except BaseException as error:
            self._fail(error)
            raise
        self._remember(copy_seconds=round(copied - began, 3), wal_seconds=round(time.monotonic() - copied, 3))
        return self.info

    def _save(self, **changes: Any) -> None:
        changed = replace(self.info, **changes)
        repository.save(self.server.layout, changed)
        self.info = changed

    def _begin(self) -> None:
        layout, facts = self.server.layout, self.ready.facts
        self._remember(
            job=self.job,
            client=self.client,
            shape=str(self.ready.shape),
            pg_basebackup=self.ready.program.path,
            pg_basebackup_version=".".join(map(str, self.ready.program.version)),
            server_version=facts.version,
            restore_settings=facts.restore_settings,
            settings=dict(facts.settings),
        )
        self._save(status="EMPTY")
        step("backup.empty")
        identity.write(layout, facts.system_id, facts.major)
        data = layout.data(self.info.id)
        for path in [data, *(layout.tablespace(self.info.id, t.oid) for t in self._placed())]:
            os.makedirs(path, mode=0o700)
        os.chmod(layout.backup(self.info.id), 0o755)
        with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
            now, lsn = _now_and_here(conn)
        self._save(**_fields(self.info.began(lsn, facts.timeline)), begin_time=now, status="STARTED")
        step("backup.started")

    def _placed(self) -> list[Tablespace]:
        """Return the tablespaces that are directories of their own: those inside PGDATA are copied with it."""
        return [t for t in self.info.tablespaces if os.path.isabs(t.location)]

    def _call(self) -> Call:
        layout, server = self.server.layout, self.server
        safe, password = connection.without_password(server.streaming_conninfo)
        return Call(
            program=self.ready.program.path,
            program_major=self.ready.program.major,
            conninfo=connection.with_options(
                safe, application_name=self.client, connect_timeout=server.check_timeout, **_KEEPALIVE
            ),
            env={"PGPASSWORD": password} if password is not None else {},
            data=layout.data(self.info.id),
            shape=self.ready.shape,
            label=f"cellarman {server.name} {self.info.id}",
            tablespaces=[(t.location, layout.tablespace(self.info.id, t.oid)) for t in self._placed()],
            fast=self.fast,
            rate=server.bandwidth_limit,
        )

    def _copy(self) -> None:
        self.report.phase("checkpoint", "at once" if self.fast else "spread, as the server does it by itself")
        with Monitor(self.server, self.client, self.report) as monitor:
            progress = _Progress(self.report, monitor, self.server.wal_timeout)
            basebackup.run(self._call(), progress.tick, self.report.note)
        step("backup.copied")

    def _end(self) -> dict[str, Any]:
        """Return where the backup begins and ends, as backup.info says it, and have the server send that WAL: it comes
        while the copy is synced."""
        text = label.read(self.server.layout.data(self.info.id), self.ready.shape)
        found = parse_label(text)
        timeline = found.timeline or int(found.start_wal[:8], 16)
        now, lsn = self._where_it_ends(timeline)
        self._mark()
        placed = self.info.began(found.start_lsn, timeline).ended(lsn, timeline)
        return {**_fields(placed), "end_time": now, "backup_label": text}

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
        self._save(
            **ended,
            size=sizes.size,
            deduplicated_size=sizes.deduplicated,
            copy_stats={"copy_time": round(seconds, 6), "total_time": round(seconds, 6)},
            status="WAITING_FOR_WALS",
        )
        step("backup.waiting")
        self.report.phase("wal", f"{self.info.begin_wal} to {self.info.end_wal}")
        waiting.await_wal(self.server, self.info, self.report)

    def _where_it_ends(self, timeline: int) -> tuple[datetime, Lsn]:
        """Return when and where the backup is consistent: how far the server has written WAL by now, or, when it does
        not answer any more, the end that it wrote into the manifest."""
        try:
            with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
                _same_timeline(conn, timeline)
                return _now_and_here(conn)
        except ConnectionFailed as error:
            manifest = os.path.join(self.server.layout.data(self.info.id), "backup_manifest")
            ends = [part.end for part in scan_manifest(manifest, _no_matter).wal_ranges if part.timeline == timeline]
            if not ends:
                raise
            self.report.note(f"the end of the backup is taken from its manifest: {error}", "warn")
            return datetime.now(timezone.utc), max(ends)

    def _mark(self) -> None:
        """Make the restore point barman_<ID> and end the segment, so that its WAL is sent at once."""
        name = f"barman_{self.info.id}"
        try:
            with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
                point = connection.create_restore_point(conn, name)
                self._remember(restore_point=name, restore_point_lsn=str(point))
                connection.switch_wal(conn)
                if self.server.streaming_archiver:
                    lane.write_a_little(conn)
        except CellarmanError as error:
            self.report.note(f"restore point and end of the WAL segment: {error}", "warn")

    def _remember(self, **facts: Any) -> None:
        layout = self.server.layout
        repository.save_facts(layout, self.info.id, {**repository.facts(layout, self.info.id), **facts})

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
                self._save(status="FAILED", error=ending.reason(error))
            else:
                ending.give_up(self.server, self.info, ending.reason(error), self.client, self.report)
        except (CellarmanError, OSError) as second:
            path = self.server.layout.backup_info(self.info.id)
            self.report.note(f"{path} could not say that the backup failed: {second}; cellarman cron does", "error")

    def _status_on_disk(self) -> str:
        """Return what the disk says: an error may have come between the write and this process's knowing."""
        try:
            return repository.load(self.server.layout, self.info.id).status
        except CellarmanError:
            return self.info.status


def _no_matter(entry: ManifestFile) -> None:
    """Pass over a file of the manifest."""


def _same_timeline(conn: Connection, timeline: int) -> None:
    with conn.cursor() as cursor:
        cursor.execute(
            "SELECT pg_is_in_recovery() OR left(pg_walfile_name(pg_current_wal_lsn()), 8) <> %s", (f"{timeline:08X}",)
        )
        row = cursor.fetchone()
    if row is None or row[0]:
        raise CellarmanError(
            "the server changed its timeline during the backup", f"it began on timeline {timeline}", "back up again"
        )


def _now_and_here(conn: Connection) -> tuple[datetime, Lsn]:
    """Return the server's time, and the end of the WAL that it has written."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp(), pg_current_wal_lsn()::text")
        row = cursor.fetchone()
    assert row is not None
    return row[0].astimezone(timezone.utc), Lsn.parse(row[1])


_POSITION = (
    "begin_xlog", "begin_wal", "begin_offset", "end_xlog", "end_wal", "end_offset", "timeline",
)  # fmt: skip


def _fields(info: BackupInfo) -> dict[str, Any]:
    """Return where a backup begins and ends, as changes."""
    return {name: getattr(info, name) for name in _POSITION}


class _Progress:
    """Turns what pg_basebackup and the server say into phases and bytes."""

    def __init__(self, report: Reporter, monitor: Monitor, wal_timeout: int) -> None:
        self._report = report
        self._monitor = monitor
        self._phase = "checkpoint"
        self._wal_timeout = wal_timeout
        self._archiving_since: float | None = None

    def tick(self, tick: Tick) -> None:
        if tick.phase != self._phase:
            self._phase = tick.phase
            self._report.phase(tick.phase)
        if tick.phase != "copy":
            return
        seen = self._monitor.look()
        if seen is not None and seen.streamed:
            self._report.progress(seen.streamed, seen.total)
        elif seen is None and tick.received is not None:
            self._report.progress(tick.received, tick.total)
        self._watch_archiving(seen is not None and seen.phase == ARCHIVING)

    def _watch_archiving(self, waits: bool) -> None:
        """Bound the server's own wait for its archive_command, which has no end."""
        if not waits:
            self._archiving_since = None
        elif self._archiving_since is None:
            self._archiving_since = time.monotonic()
            self._report.note("all is copied; the server waits for its archive_command")
        elif time.monotonic() - self._archiving_since > self._wal_timeout:
            raise CellarmanError(
                f"the server's archive_command did not archive the backup's WAL within {self._wal_timeout} s",
                "the server ends a backup only when its archive_command has taken its WAL",
                "see the server's log for what archive_command says, correct it, and back up again",
            )


def work(server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Take a backup as a job; `arguments` are those of `take`."""
    info = take(server, report=report, job=job, **arguments)
    seconds = (info.end_time - info.begin_time).total_seconds() if info.end_time and info.begin_time else 0.0
    return {
        "backup": info.id,
        "size_bytes": info.size,
        "seconds": round(seconds, 3),
        "summary": f"backup {info.id} of {server.name}: {(info.size or 0) / 2**20:,.1f} MiB in {seconds:,.1f} s, done",
    }
