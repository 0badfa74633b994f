"""A backup taken with pg_basebackup, from preflight to DONE.

The begin is corrected from the finished backup_label; the end is how far the server has written WAL after the copy, or,
of a standby, which writes none, what the server wrote into the manifest.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from engine.backup import basebackup, label, preflight, run, syncing
from engine.backup.basebackup import Call, Tick
from engine.backup.monitor import ARCHIVING, Monitor
from engine.backup.preflight import Ready
from engine.config import Config, Server
from engine.errors import CellarmanError
from engine.event import SILENT, Reporter
from engine.faults import step
from engine.postgres import connection
from engine.postgres.backuplabel import parse_label
from engine.postgres.connection import ConnectionFailed
from engine.postgres.lsn import Lsn
from engine.postgres.manifest import ManifestFile, scan_manifest
from engine.repository.backupinfo import BackupInfo

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
    run.may_begin(server, name)
    ready = preflight.examine(server, report)
    with run.place(server, report) as backup_id:
        fast = server.immediate_checkpoint if immediate is None else immediate
        info = run.entry(server, ready.facts, backup_id, name, mode="postgres", compression=ready.shape.compression)
        return _Run(server, ready.facts, report, job, fast, info, ready).run()


@dataclass
class _Run(run.Run):
    """One backup on its way."""

    ready: Ready

    def begin(self) -> None:
        self.make_place(
            shape=str(self.ready.shape),
            pg_basebackup=self.ready.program.path,
            pg_basebackup_version=".".join(map(str, self.ready.program.version)),
        )
        with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
            now, lsn = _now_and_here(conn)
        self.save(**run.position(self.info.began(lsn, self.facts.timeline)), begin_time=now, status="STARTED")
        step("backup.started")

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
            tablespaces=[(t.location, layout.tablespace(self.info.id, t.oid)) for t in self.placed],
            fast=self.fast,
            rate=server.bandwidth_limit,
        )

    def copy(self) -> None:
        self.report.phase("checkpoint", "at once" if self.fast else "spread, as the server does it by itself")
        early = syncing.written_early(self.server.layout.backup(self.info.id))
        with early, Monitor(self.server, self.client, self.report) as monitor:
            mode = self.facts.archive_mode
            archives = mode == "always" or (mode == "on" and not self.facts.in_recovery)
            progress = _Progress(self.report, monitor, self.server.wal_timeout if archives else None)
            basebackup.run(self._call(), progress.tick, self.report.note)
        step("backup.copied")

    def end(self) -> dict[str, Any]:
        """Return where the backup begins and ends, and have the server send that WAL: it comes while the copy is
        synced."""
        text = label.read(self.server.layout.data(self.info.id), self.ready.shape)
        found = parse_label(text)
        timeline = found.timeline or int(found.start_wal[:8], 16)
        now, lsn = self._where_it_ends(timeline)
        self.mark()
        placed = self.info.began(found.start_lsn, timeline).ended(lsn, timeline)
        return {**run.position(placed), "end_time": now, "backup_label": text}

    def _where_it_ends(self, timeline: int) -> tuple[datetime, Lsn]:
        """Return when and where the backup is consistent: how far the server has written WAL by now, or, of a standby
        or when it does not answer any more, the end that it wrote into the manifest."""
        try:
            with connection.connect(self.server.conninfo, timeout=self.server.check_timeout) as conn:
                now, lsn = _now_and_here(conn)
                if not self.facts.in_recovery:
                    _same_timeline(conn, timeline)
                    return now, lsn
        except ConnectionFailed as error:
            self.report.note(f"the end of the backup is taken from its manifest: {error}", "warn")
            now = datetime.now(timezone.utc)
        return now, self._end_in_manifest(timeline)

    def _end_in_manifest(self, timeline: int) -> Lsn:
        manifest = os.path.join(self.server.layout.data(self.info.id), "backup_manifest")
        ranges = scan_manifest(manifest, _no_matter).wal_ranges
        if [part.timeline for part in ranges] != [timeline]:
            raise _changed(timeline)
        return ranges[0].end


def _no_matter(entry: ManifestFile) -> None:
    """Pass over a file of the manifest."""


def _same_timeline(conn: Connection, timeline: int) -> None:
    with conn.cursor() as cursor:
        cursor.execute(
            "SELECT pg_is_in_recovery() OR left(pg_walfile_name(pg_current_wal_lsn()), 8) <> %s", (f"{timeline:08X}",)
        )
        row = cursor.fetchone()
    if row is None or row[0]:
        raise _changed(timeline)


def _changed(timeline: int) -> CellarmanError:
    return CellarmanError(
        "the server changed its timeline during the backup", f"it began on timeline {timeline}", "back up again"
    )


def _now_and_here(conn: Connection) -> tuple[datetime, Lsn]:
    """Return the server's time, and the end of the WAL that it has written, or, a standby, replayed."""
    here = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
    with conn.cursor() as cursor:
        cursor.execute(f"SELECT clock_timestamp(), {here}::text")
        row = cursor.fetchone()
    assert row is not None
    return row[0].astimezone(timezone.utc), Lsn.parse(row[1])


class _Progress:
    """Turns what pg_basebackup and the server say into phases and bytes.

    `archiving_timeout` is in seconds; None for a server that has no archiving to wait for, though it passes that phase.
    """

    def __init__(self, report: Reporter, monitor: Monitor, archiving_timeout: int | None) -> None:
        self._report = report
        self._monitor = monitor
        self._phase = "checkpoint"
        self._archiving_timeout = archiving_timeout
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
        if not waits or self._archiving_timeout is None:
            self._archiving_since = None
        elif self._archiving_since is None:
            self._archiving_since = time.monotonic()
            self._report.note("all is copied; the server waits for its archive_command")
        elif time.monotonic() - self._archiving_since > self._archiving_timeout:
            raise CellarmanError(
                f"the server's archive_command did not archive the backup's WAL within {self._archiving_timeout} s",
                "the server ends a backup only when its archive_command has taken its WAL",
                "see the server's log for what archive_command says, correct it, and back up again",
            )


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Take a backup as a job; `arguments` are those of `take`."""
    return run.outcome(server, take(server, report=report, job=job, **arguments))
