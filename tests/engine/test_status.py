"""How servers stand, read from repositories that were made by the engine itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engine import event as ev
from engine.config import Server
from engine.errors import CANCELLED
from engine.postgres.clock import pg_microseconds
from engine.repository import repository
from engine.status import ServerStatus, Statuses, statuses
from engine.wal import index
from tests.support.fleet import NOW, Fleet, every, segment_bytes, write_config

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.close()


def the_status(fleet: Fleet) -> ServerStatus:
    (status,) = statuses(fleet.config, NOW)
    return status


def whats(status: ServerStatus) -> str:
    return "\n".join(f"{finding.severity}: {finding.what} ({finding.why})" for finding in status.findings)


def well(fleet: Fleet, **settings: object) -> Server:
    """A server with one good backup and WAL until a minute ago."""
    server = fleet.server("main", **settings)
    fleet.segments(server, 100, every(NOW - 4 * HOUR, NOW - MINUTE, 20 * MINUTE))
    fleet.backup(server, NOW - 3 * HOUR, 102, minutes=2)
    return server


def test_a_server_that_is_well(fleet: Fleet) -> None:
    well(fleet)
    status = the_status(fleet)
    assert (status.health, whats(status), status.gaps) == ("ok", "", 0)
    assert status.recoverable_from == NOW - 3 * HOUR
    assert status.recoverable_to == NOW - MINUTE
    assert status.exposure(NOW) == MINUTE


def test_a_server_without_any_backup_is_at_risk_and_told_to_take_one(fleet: Fleet) -> None:
    fleet.server("main")
    status = the_status(fleet)
    assert status.health == "warning"
    assert status.findings[0].what == "no backup yet"
    assert status.findings[0].fix.text() == "cellarman backup main"
    assert status.recoverable_to is None
    assert status.exposure(NOW) is None


def test_a_server_whose_backups_all_failed_is_critical(fleet: Fleet) -> None:
    server = fleet.server("main")
    fleet.backup(server, NOW - HOUR, 5, status="FAILED", error="disk full")
    status = the_status(fleet)
    assert status.health == "critical"
    assert "no good backup" in whats(status)
    assert "the last backup failed" in whats(status) and "disk full" in whats(status)


def test_a_gap_that_ends_the_last_window_is_critical(fleet: Fleet) -> None:
    server = fleet.server("main")
    times = every(NOW - 4 * HOUR, NOW - MINUTE, 20 * MINUTE)
    fleet.segments(server, 100, times, range(106, 108))
    fleet.backup(server, times[2], 102, minutes=2)
    status = the_status(fleet)
    assert (status.health, status.gaps, status.open_end) == ("critical", 1, False)
    assert status.recoverable_to == times[5]
    assert status.exposure(NOW) == NOW - times[5]
    assert status.findings[0].what.endswith("00000001000000000000006A to 0000006B are missing (2 segments)")
    assert status.findings[0].command == "backup"


def test_a_gap_that_a_later_backup_covers_is_a_warning(fleet: Fleet) -> None:
    server = fleet.server("main")
    times = every(NOW - 4 * HOUR, NOW - MINUTE, 20 * MINUTE)
    fleet.segments(server, 100, times, range(106, 107))
    fleet.backup(server, times[2], 102, minutes=2)
    fleet.backup(server, times[9], 109, minutes=2)
    status = the_status(fleet)
    assert (status.health, status.gaps, status.open_end) == ("warning", 1, True)
    assert [(window.begin, window.end) for window in status.windows] == [
        (times[2], times[5]),
        (times[9], times[-1]),
    ]
    assert (status.recoverable_from, status.unbroken_from) == (times[2], times[9]), "nothing between is promised"


def test_a_hole_before_the_first_backup_matters_to_nobody(fleet: Fleet) -> None:
    server = fleet.server("main")
    fleet.segments(server, 100, every(NOW - 4 * HOUR, NOW - MINUTE, 20 * MINUTE), range(101, 102))
    fleet.backup(server, NOW - 3 * HOUR, 104, minutes=2)
    assert (the_status(fleet).health, the_status(fleet).gaps) == ("ok", 0)


def test_a_backup_without_the_wal_that_it_needs_reaches_nothing(fleet: Fleet) -> None:
    server = fleet.server("main")
    fleet.segments(server, 100, every(NOW - 2 * HOUR, NOW - MINUTE, 20 * MINUTE))
    fleet.backup(server, NOW - 3 * HOUR, 90, minutes=2)
    status = the_status(fleet)
    assert status.health == "critical"
    assert "no backup has the WAL that it needs" in whats(status)


def test_one_backup_that_covers_the_next_makes_one_window(fleet: Fleet) -> None:
    server = well(fleet)
    fleet.backup(server, NOW - 30 * timedelta(seconds=1), 112, minutes=2)
    status = the_status(fleet)
    assert len(status.windows) == 1
    assert status.last_backup is not None and status.last_backup.end_time == NOW - timedelta(seconds=30)


def test_wal_that_nobody_takes_in_is_a_warning(fleet: Fleet) -> None:
    server = well(fleet)
    waiting = Path(server.layout.incoming) / "000000010000000000000070"
    waiting.write_bytes(segment_bytes(1, 0x70, previous=0x6F00078))
    os.utime(waiting, (NOW.timestamp(),) * 2)
    assert (the_status(fleet).wal.queued, the_status(fleet).health) == (1, "ok")
    os.utime(waiting, ((NOW - 20 * MINUTE).timestamp(),) * 2)
    assert "nobody takes them in" in whats(the_status(fleet))


def test_refused_wal_is_a_warning_and_its_reason_is_not_counted(fleet: Fleet) -> None:
    server = well(fleet)
    (Path(server.layout.errors) / "000000010000000000000071.20261122T140000Z.alien").write_bytes(b"x")
    (Path(server.layout.errors) / "000000010000000000000071.20261122T140000Z.alien.reason.txt").write_text("why")
    assert len(the_status(fleet).wal.refused) == 1
    assert "000000010000000000000071 was refused" in whats(the_status(fleet))
    [found] = [each for each in the_status(fleet).findings if "refused" in each.what]
    assert found.why == "why" and "whose archive_command sends its WAL here" in found.fix.text()


def test_a_refusal_is_settled_when_a_good_copy_is_archived_unless_the_archive_held_another_one(fleet: Fleet) -> None:
    server = well(fleet)
    archived = next(Path(server.layout.wals).rglob("0000000100000000000000??")).name
    (Path(server.layout.errors) / f"{archived}.20261122T140000Z.damaged").write_bytes(b"x")
    assert the_status(fleet).wal.refused == () and the_status(fleet).health == "ok"
    (Path(server.layout.errors) / f"{archived}.20261122T140000Z.duplicate").write_bytes(b"x")
    assert f"{archived} was refused" in whats(the_status(fleet))


def test_a_receiver_that_does_not_run_is_a_warning(fleet: Fleet) -> None:
    server = well(fleet, streaming_archiver=True)
    assert "WAL is not being received" in whats(the_status(fleet))
    with open(server.layout.lock("receive-wal"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert the_status(fleet).health == "ok"


def test_an_archive_that_has_fallen_silent_is_a_warning(fleet: Fleet) -> None:
    server = fleet.server("main")
    fleet.segments(server, 100, every(NOW - 3 * HOUR, NOW - 2 * HOUR, 2 * MINUTE))
    fleet.backup(server, NOW - 2.5 * HOUR, 110, minutes=2)
    assert "no WAL has come for 2 h 0 min" in whats(the_status(fleet))


def test_too_few_or_too_old_backups_are_warnings(fleet: Fleet) -> None:
    well(fleet, minimum_redundancy=2, last_backup_maximum_age="2 HOURS")
    assert "only 1 good backup" in whats(the_status(fleet))
    assert "ended 3 h 0 min ago" in whats(the_status(fleet))
    assert the_status(fleet).health == "warning"


def test_a_bad_page_in_the_newest_good_backup_is_a_warning(fleet: Fleet) -> None:
    def spoil(backup_id: str, *pages: dict[str, object]) -> None:
        repository.save_facts(server.layout, backup_id, {"checked_pages": 9, "bad_pages": list(pages)})

    server = well(fleet)
    older = the_status(fleet).backups[0]
    looking = Statuses(fleet.config)
    assert looking.read((), NOW)[0].health == "ok"
    spoil(older.id, {"file": "base/5/16384", "block": 7, "relation": "erp: public.orders"})
    (status,) = looking.read((), NOW)
    assert status.health == "warning"
    assert "warning: the last good backup holds 1 bad page (the checksum" in whats(status)
    assert "base/5/16384, block 7, of erp: public.orders" in whats(status)
    assert status.findings[0].fix.text() == "cellarman check main"
    told = cellarman("--config", write_config(fleet), "status", "main")
    assert told.returncode == 0 and "holds 1 bad page" in told.stdout
    spoil(older.id, *({"file": "base/5/16384", "block": block} for block in (7, 8)))
    assert "2 bad pages (the checksum does not match, on the server too: base/5/16384, block 7 and 1 more)" in whats(
        looking.read((), NOW)[0]
    )
    newer = fleet.backup(server, NOW - HOUR, 109, minutes=2)
    assert looking.read((), NOW)[0].health == "ok", "the newest is without them"
    spoil(newer.id)
    assert looking.read((), NOW)[0].health == "ok"


def test_an_unreadable_backup_is_named_and_stops_nothing(fleet: Fleet) -> None:
    server = well(fleet)
    Path(server.layout.backup_info("20261101T000000")).write_text("garbage\n")
    status = the_status(fleet)
    assert status.unreadable[0].id == "20261101T000000"
    assert "20261101T000000 cannot be read" in whats(status)
    assert status.recoverable_to == NOW - MINUTE


def test_work_that_was_left_is_told_apart_from_work_that_goes_on(fleet: Fleet) -> None:
    server = well(fleet)
    left = fleet.backup(server, NOW - MINUTE, 112, status="STARTED", end_time=None)
    assert "was left unfinished" in whats(the_status(fleet))
    at = NOW - MINUTE
    events: list[ev.Event] = [ev.Started(at, "", "backup", "main", 1), ev.BackupNamed(at, left.id)]
    fleet.journal("backup", "main", events, running=True)
    status = the_status(fleet)
    assert (status.health, [job.backup for job in status.jobs]) == ("running", [left.id])


def test_a_died_job_is_a_warning(fleet: Fleet) -> None:
    well(fleet)
    fleet.journal("verify", "main", [ev.Started(NOW - MINUTE, "", "verify", "main", 1)])
    assert "the last verify died" in whats(the_status(fleet))


def test_a_repository_that_cannot_be_read_is_unknown_and_stops_no_other(fleet: Fleet) -> None:
    well(fleet)
    other = fleet.server("other")
    shutil.rmtree(other.layout.wals)
    Path(other.layout.wals).write_text("not a directory")
    found = {status.name: status for status in statuses(fleet.config, NOW)}
    assert (found["main"].health, found["other"].health) == ("ok", "unknown")
    assert "cannot be read" in whats(found["other"])


def test_the_worst_comes_first_and_inactive_servers_do_not_come(fleet: Fleet) -> None:
    well(fleet)
    fleet.server("new")
    failed = fleet.server("zfailed")
    fleet.backup(failed, NOW - HOUR, 5, status="FAILED")
    fleet.server("gone", active=False)
    assert [status.name for status in statuses(fleet.config, NOW)] == ["zfailed", "new", "main"]


def test_looking_again_sees_what_has_changed(fleet: Fleet) -> None:
    server = well(fleet)
    looking = Statuses(fleet.config)
    assert looking.read((), NOW)[0].gaps == 0
    os.remove(server.layout.wal("00000001000000000000006A"))
    assert looking.read((), NOW)[0].gaps == 1
    fleet.backup(server, NOW - HOUR, 109, minutes=2)
    assert len(looking.read((), NOW)[0].backups) == 2
    info = looking.read((), NOW)[0].backups[0]
    repository.save(server.layout, replace(info, status="FAILED"))
    assert looking.read((), NOW)[0].backups[0].status == "FAILED"


def test_what_the_index_learns_later_of_the_newest_segment_is_seen(fleet: Fleet) -> None:
    """A segment arrives, and a moment later its commits are known: nothing else changes then."""
    server = well(fleet)
    looking = Statuses(fleet.config)
    before = looking.read((), NOW)[0].recoverable_to
    index.catch_up(server.layout)
    with contextlib.closing(sqlite3.connect(server.layout.index)) as database, database:
        learned = pg_microseconds(NOW - timedelta(seconds=10))
        changed = database.execute(
            "UPDATE segment SET problem = NULL, max_commit = ? WHERE number = (SELECT max(number) FROM segment)",
            [learned],
        )
        assert changed.rowcount == 1
    assert before == NOW - MINUTE and looking.read((), NOW)[0].recoverable_to == NOW - timedelta(seconds=10)


def test_the_command_line_tells_the_same(fleet: Fleet) -> None:
    well(fleet)
    config = write_config(fleet)
    done = cellarman("--config", config, "servers", "--json")
    (row,) = json.loads(done.stdout)["servers"]
    assert done.returncode == 0
    assert row["name"] == "main" and row["gaps"] == 0 and row["jobs"] == 0
    assert row["recoverable_to"].endswith("+00:00") and row["exposure_seconds"] is not None
    assert row["last_backup"] == the_status(fleet).backups[0].id
    told = cellarman("--config", config, "status", "main").stdout
    assert "can be restored to any moment from" in told
    assert cellarman("--config", config, "status", "mian").returncode == 2


def test_the_command_line_exits_1_when_one_cannot_be_restored(fleet: Fleet) -> None:
    server = well(fleet)
    os.remove(server.layout.wal("00000001000000000000006A"))
    assert cellarman("--config", write_config(fleet), "servers").returncode == 1
    ours = f"cellarman --config {write_config(fleet)}"
    said = cellarman("--config", write_config(fleet), "status", "main").stdout
    assert f"now: {ours} wal fetch-missing main; if that finds nothing: {ours} backup main" in said


def cellarman(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "engine.cli.main", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_a_cancelled_backup_is_no_failure_and_the_one_before_it_counts(fleet: Fleet) -> None:
    server = well(fleet)
    fleet.backup(server, NOW - MINUTE, 0x61, status="FAILED", error=CANCELLED, minutes=1)
    assert (the_status(fleet).health, the_status(fleet).findings) == ("ok", ())
    fleet.backup(server, NOW - 4 * MINUTE, 0x60, status="FAILED", error="the disk is full", minutes=1)
    assert "the last backup failed" in whats(the_status(fleet))


def test_where_every_backup_was_cancelled_there_is_none_yet(fleet: Fleet) -> None:
    server = fleet.server("main")
    fleet.backup(server, NOW - MINUTE, 0x61, status="FAILED", error=CANCELLED, minutes=1)
    assert the_status(fleet).health == "warning" and the_status(fleet).findings[0].what == "no backup yet"
