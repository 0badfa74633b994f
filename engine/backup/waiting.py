"""Waiting for the WAL that a backup needs, and saying why it does not come."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone

from engine.backup import lane
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, Busy, CellarmanError, one_a_line
from engine.event import Reporter
from engine.postgres import connection
from engine.postgres.backuplabel import FROM_STANDBY
from engine.postgres.facts import server_facts
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_before, segment_of
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout
from engine.repository.repository import required_wal
from engine.wal import receiver
from engine.wal.ingest import ingest

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_FETCH_AFTER, _FETCH_EVERY = 3.0, 30.0
"""Seconds of waiting after which, and between which, it is looked for what will not come by itself."""


class WalMissing(CellarmanError):
    """A backup's WAL did not arrive in time; the backup waits on."""


def missing(layout: Layout, info: BackupInfo) -> list[str]:
    """Return the names of the segments that the backup needs and the archive does not have."""
    return [name for name in required_wal(info) if not os.path.exists(layout.wal(name))]


def await_wal(server: Server, info: BackupInfo, report: Reporter) -> None:
    """Return when every segment that the backup needs is in the archive, taking in meanwhile what arrives.

    What will not come by itself is fetched: a standby's backup begins at its last restartpoint, which may lie before
    the archive. Raises WalMissing, with the reasons that can be seen, after the server's wal_timeout.
    """
    needed = required_wal(info)
    size = info.xlog_segment_size
    began = time.monotonic()
    deadline, fetch_at = began + server.wal_timeout, began + min(_FETCH_AFTER, server.wal_timeout / 2)
    pause = _FIRST_PAUSE
    trouble = lost = ""
    while True:
        trouble = take_in(server) or trouble
        absent = missing(server.layout, info)
        have = len(needed) - len(absent)
        report.progress(have * size, len(needed) * size, have, len(needed))
        if not absent:
            return
        now = time.monotonic()
        if now >= deadline:
            raise _explained(server, info, absent, trouble, lost)
        if now >= fetch_at:
            lost = _fetch(server, absent, report)
            fetch_at = time.monotonic() + _FETCH_EVERY
            continue
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def push(server: Server, info: BackupInfo) -> None:
    """Have the server send the end of a backup's WAL, which an idle one would keep in its current segment for ever.

    For a backup whose own worker did not live to do it. Does nothing once the server writes behind that end, nor on a
    standby, which writes none.
    """
    size = info.xlog_segment_size
    with connection.connect(server.conninfo, timeout=server.check_timeout) as conn:
        with conn.cursor() as cursor:
            cursor.execute("SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn()::text END")
            row = cursor.fetchone()
        if row is None or row[0] is None:
            return
        here = Lsn.parse(row[0])
        end = segment_before(info.end_xlog or Lsn(1), size)
        if segment_of(here, size) <= end:
            connection.switch_wal(conn)
        elif here % size or segment_of(here, size) > end + 1:
            return
        if server.streaming_archiver:
            lane.write_a_little(conn)


def take_in(server: Server) -> str:
    """Pass once over the queues; returns what went wrong, which the next pass may do better."""
    try:
        if server.streaming_archiver:
            receiver.ensure(server)
        ingest(server, wait=1.0)
    except Busy:
        return ""  # somebody else does it
    except CellarmanError as error:
        return str(error)
    return ""


def _fetch(server: Server, absent: list[str], report: Reporter) -> str:
    """Fetch those of the segments that will not come by themselves from where they still are; returns what went wrong.

    The server, its standbys, the queues and errors/ are asked, as `wal fetch-missing` asks them.
    """
    from engine.wal import copies, findings, healing  # rarely needed

    lost = ""
    now = datetime.now(timezone.utc)
    try:
        made = findings.gather(server, now=now, ask_server=True, read_only=False, selected=(), told=report)
        for case in made.cases[:1]:
            lacking = [(key, state) for key, state in healing.wanted(case) if case.archive.name(*key) in absent]
            with copies.Copies(server, case) as found:
                healer = healing.Healer(server, case, found, dry_run=False)
                for key, state in lacking:
                    healed = healer.heal(key, state)
                    if healed.state == "fetched":
                        report.note(f"WAL segment {healed.first} had not come: fetched from {healed.source}")
                    elif healed.open:
                        lost = f"{healed.first} is not found: {healed.why}"
    except CellarmanError as error:
        return str(error)
    return lost


def _explained(server: Server, info: BackupInfo, absent: list[str], trouble: str, lost: str) -> WalMissing:
    first = absent[0] if len(absent) == 1 else f"{absent[0]} … {absent[-1]} ({len(absent)} segments)"
    reasons = [f"missing: {first}"]
    fixes: list[str | Advice] = []
    if trouble:
        reasons.append(f"taking in WAL failed: {trouble}")
    if lost:
        reasons.append(lost)
        if FROM_STANDBY in (info.backup_label or ""):
            fixes.append(
                "a standby's backup begins at its last restartpoint, and this one lies before the archive:"
                " CHECKPOINT on the primary, then on the standby, and back up again"
            )
    kept = [name for name in _names(server.layout.errors) if name.split(".")[0] in absent]
    if kept:
        reasons.append(f"arrived and was not accepted: {', '.join(kept)} in {server.layout.errors}")
    if server.streaming_archiver and receiver.alive(server.layout) is None:
        reasons.append("no pg_receivewal runs")
        fixes.append(Advice(cellarman("wal", "receive", server.name), " says why it does not run"))
    reasons += _on_the_server(server)
    fixes.append(Advice("once the WAL arrives, ", cellarman("cron"), f" makes backup {info.id} DONE"))
    return WalMissing(
        f"backup {info.id} of {server.name} waits for WAL that did not come within {server.wal_timeout} s",
        "\n".join(reasons),
        one_a_line(fixes),
    )


def _on_the_server(server: Server) -> list[str]:
    """Return what the server says about its sending of WAL."""
    try:
        with connection.connect(server.conninfo, timeout=server.check_timeout) as conn:
            facts = server_facts(conn, with_size=False)
            slot = connection.slot(conn, server.slot_name) if server.slot_name else None
    except CellarmanError as error:
        return [str(error)]
    reasons: list[str] = []
    if server.archiver:
        if facts.archive_mode == "off":
            reasons.append("archive_mode is off on the server")
        elif facts.archiver.failing:
            failed = facts.archiver
            reasons.append(
                f"the server's archive_command fails: {failed.last_failed_wal} at {failed.last_failed_time},"
                f" {failed.failed_count} times; the server's log has its words"
            )
    if server.streaming_archiver and server.slot_name:
        if slot is None:
            reasons.append(f"the replication slot {server.slot_name} is not there")
        else:
            state = "active" if slot.active else "not active"
            reasons.append(f"the replication slot {slot.name} is {state}, at {slot.restart_lsn}, {slot.wal_status}")
    return reasons


def _names(directory: str) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []
