"""Checks of the disk and the catalogue, on real files, without a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engine.check import facts, runner
from engine.check.account import account, program
from engine.check.facts import Probe, Unknown
from engine.check.result import CheckResult
from engine.commands import cellarman
from engine.config import Config, load
from engine.errors import Advice, Refused
from engine.postgres.lsn import Lsn
from engine.repository import locks, repository
from engine.repository.backupinfo import BackupInfo

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
Setup = Callable[..., Config]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    def setup(**more: str) -> Config:
        file = tmp_path / "cellarman.toml"
        lines = "".join(f"{key} = {value}\n" for key, value in {"active": "false", **more}.items())
        file.write_text(
            f'[cellarman]\nbarman_home = "{tmp_path}/barman"\nstate_directory = "{tmp_path}/state"\n'
            f"[servers.main]\n{lines}"
        )
        config = load(str(file), env={})
        repository.prepare(config.server("main").layout)
        return config

    return setup


def check(config: Config) -> dict[str, CheckResult]:
    return {result.name: result for result in runner.run(config, config.server("main"), NOW)}


def backup(config: Config, ended: datetime, status: str = "DONE", **more: object) -> BackupInfo:
    info = BackupInfo(
        ended.strftime("%Y%m%dT%H%M%S"),
        status=status,  # type: ignore[arg-type]
        begin_time=ended - timedelta(minutes=1),
        end_time=ended,
        version=180006,
        size=5 << 20,
        **more,  # type: ignore[arg-type]
    )
    info = info.began(Lsn(0x2000028), 1).ended(Lsn(0x3000000), 1)
    layout = config.server("main").layout
    repository.save(layout, info)
    os.makedirs(layout.data(info.id), exist_ok=True)
    return info


def test_a_backup_whose_files_are_gone(setup: Setup) -> None:
    config = setup()
    info = backup(config, NOW - timedelta(hours=3))
    os.rmdir(config.server("main").layout.data(info.id))
    found = check(config)["catalogue"]
    assert found.status == "fail" and info.id in found.detail and info.id in found.fix


def test_an_inactive_server_is_judged_by_its_repository(setup: Setup) -> None:
    config = setup()
    backup(config, NOW - timedelta(hours=3))
    found = check(config)
    del found["file system"]  # tests may work in memory, which it warns of
    assert "cannot be restored yet" in found.pop("WAL archive").detail, "its WAL is nowhere"
    assert {result.status for result in found.values()} == {"ok", "skip"}
    assert found["PostgreSQL"] == CheckResult("PostgreSQL", "skip", "the server is not active")
    assert found["last backup"].detail == "20261122T090000, 3 h old, 5 MiB"


def test_last_backup_too_old_or_too_small(setup: Setup) -> None:
    config = setup(last_backup_maximum_age='"1 DAY"')
    assert check(config)["last backup"].detail == "there is none"
    backup(config, NOW - timedelta(days=3, hours=1))
    found = check(config)["last backup"]
    assert (found.status, found.fix) == ("fail", f"cellarman --config {config.files[0]} backup main")
    assert "3 d 1 h old, more than 1 DAY" in found.detail
    backup(config, NOW - timedelta(hours=1))
    assert check(config)["last backup"].status == "ok"
    small = check(setup(last_backup_minimum_size='"1Gi"'))["last backup"]
    assert small.status == "fail"
    assert "5 MiB, less than 1.0 GiB" in small.detail


def test_redundancy(setup: Setup) -> None:
    config = setup(minimum_redundancy="2", retention_policy='"REDUNDANCY 2"')
    backup(config, NOW - timedelta(hours=3))
    backup(config, NOW - timedelta(hours=2), "FAILED")
    found = check(config)
    assert found["minimum redundancy"].status == "fail"
    assert found["minimum redundancy"].detail == "1 good backup, 2 wanted"
    assert found["retention policy"].detail == "REDUNDANCY 2"
    backup(config, NOW - timedelta(hours=1))
    assert check(config)["minimum redundancy"].status == "ok"


def test_failed_backups_matter_until_the_next_good_one(setup: Setup) -> None:
    config = setup()
    backup(config, NOW - timedelta(hours=3))
    bad = backup(config, NOW - timedelta(hours=2), "FAILED", error="disk full")
    found = check(config)["failed backups"]
    assert (found.status, found.detail) == ("warn", f"{bad.id}: disk full")
    assert f" delete main {bad.id}  # what is left of it" in found.fix
    backup(config, NOW - timedelta(hours=1))
    assert check(config)["failed backups"].detail == "1 before the last good one"


def test_a_backup_that_nobody_works_on(setup: Setup) -> None:
    config = setup()
    info = backup(config, NOW, "STARTED")
    assert check(config)["unfinished backups"].status == "warn"
    with locks.hold(config.server("main").layout.lock("backup")):
        working = check(config)["unfinished backups"]
    assert working.status == "ok"
    assert f"process {os.getpid()}" in working.detail
    backup(config, NOW, "WAITING_FOR_WALS")
    waiting = check(config)["unfinished backups"]
    assert (waiting.status, waiting.detail) == ("warn", f"{info.id}: waits for WAL")


def test_garbage_in_the_catalogue(setup: Setup) -> None:
    config = setup()
    backup(config, NOW)
    layout = config.server("main").layout
    Path(layout.backup_info("20260101T000000")).write_text("what is this\n")
    found = check(config)
    assert found["catalogue"].status == "fail"
    assert "20260101T000000 cannot be read" in found["catalogue"].detail
    assert found["last backup"].status == "ok"


def test_queues(setup: Setup) -> None:
    config = setup(max_incoming_wals_queue="2")
    incoming = Path(config.server("main").layout.incoming)
    old = (NOW - timedelta(hours=2)).timestamp()
    for number in range(3):
        file = incoming / f"00000001000000000000000{number}"
        file.write_bytes(b"x")
        os.utime(file, (old, old))
    assert "switched off" in check(config)["WAL queues"].detail
    config = setup(max_incoming_wals_queue="2", archiver="true")
    assert check(config)["WAL queues"].detail == "3 files in incoming/, more than 2"
    config = setup(archiver="true")
    stuck = check(config)["WAL queues"]
    assert (stuck.status, stuck.detail) == ("warn", "3 files in incoming/, the oldest for 2 h")
    for file in incoming.iterdir():
        os.utime(file, (NOW.timestamp(), NOW.timestamp()))
    assert check(config)["WAL queues"].detail == "3 waiting"


def test_refused_wal_and_the_newest(setup: Setup) -> None:
    config = setup(last_wal_maximum_age='"1 HOUR"')
    layout = config.server("main").layout
    Path(layout.errors, "000000010000000000000001.20261122T000000Z.alien").write_bytes(b"")
    Path(layout.errors, "000000010000000000000001.20261122T000000Z.alien.reason.txt").write_bytes(b"")
    found = check(config)
    assert found["refused WAL"].status == "warn"
    assert found["refused WAL"].detail == "1 in errors/: 000000010000000000000001"
    assert "whose archive_command sends its WAL here" in found["refused WAL"].fix
    assert found["newest WAL"].status == "skip"
    wal = Path(layout.wal("000000010000000000000007"))
    wal.parent.mkdir()
    wal.write_bytes(b"x")
    os.utime(wal, (NOW.timestamp() - 300,) * 2)
    assert check(config)["newest WAL"].detail == "5 min old"
    os.utime(wal, (NOW.timestamp() - 7300,) * 2)
    assert check(config)["newest WAL"].status == "fail"


def test_maintenance_that_stopped(setup: Setup) -> None:
    config = setup(active="true", conninfo='"host=127.0.0.1 port=1"', archiver="true")
    assert check(config)["maintenance"].detail == "it never ran"
    lock = config.server("main").layout.lock("cron")
    with locks.hold(lock):
        pass
    os.utime(lock, (NOW.timestamp() - 30,) * 2)
    assert check(config)["maintenance"].status == "ok"
    Path(config.server("main").layout.by_hand).touch()
    os.utime(config.server("main").layout.by_hand, (NOW.timestamp() - 29,) * 2)
    found = check(config)["maintenance"]
    assert found.status == "warn" and "by hand, and never by itself" in found.detail
    Path(config.server("main").layout.by_itself).touch()
    os.utime(config.server("main").layout.by_itself, (NOW.timestamp() - 90,) * 2)
    assert check(config)["maintenance"].detail == "last ran by itself 1 min ago"
    os.utime(lock, (NOW.timestamp() - 3600,) * 2)
    found = check(config)["maintenance"]
    assert found.status == "warn"
    assert f"* * * * * {program()} --config {config.files[0]} cron" in found.fix


def test_no_password_file_and_no_server_to_ask(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    found = check(setup(active="true", conninfo='"host=127.0.0.1 port=1"', archiver="true"))[".pgpass"]
    assert (found.status, found.detail) == ("skip", "there is none; PostgreSQL was not reached")


def test_a_place_that_is_a_file(setup: Setup) -> None:
    config = setup()
    base = Path(config.server("main").layout.base)
    base.rmdir()
    base.write_text("")
    found = check(config)["directories"]
    assert (found.status, found.detail) == ("fail", f"{base}: not a directory")


def test_a_source_that_hangs_or_fails_is_unknown() -> None:
    import threading

    forever = threading.Event()
    hanging: Probe[bool] = Probe("the tape robot", 0.05, forever.wait, "")
    answer = hanging.answer()
    forever.set()
    assert isinstance(answer, Unknown)
    assert answer.what == "the tape robot: no answer within 0.05 s"

    def refuse() -> None:
        raise Refused("what", "why", Advice("look: ", cellarman("jobs")))

    assert Probe("x", 5, refuse, "/c").answer() == Unknown("what: why", "look: cellarman --config /c jobs")

    def defect() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        Probe("x", 5, defect, "").answer()


def test_every_check_answers_when_nothing_is_known(setup: Setup) -> None:
    config = setup(active="true", archiver="true", streaming_archiver="true", slot_name='"s"')
    nothing = Unknown("cut off", "plug it in")
    programs = dict.fromkeys(facts.PROGRAMS, nothing)
    known = facts.Facts(config.server("main"), NOW, "", (), nothing, nothing, programs, nothing, nothing)
    results = runner.judge(known)
    assert len({result.name for result in results}) == len(runner.CHECKS)
    assert all(result.detail for result in results if result.name != "configuration")
    assert all(result.fix for result in results if result.status == "fail")


def test_what_mends_a_repository_with_blanks_in_its_path_can_be_pasted(tmp_path: Path) -> None:
    file = tmp_path / "my config.toml"
    file.write_text(
        f'[cellarman]\nbarman_home = "{tmp_path}/a home"\nstate_directory = "{tmp_path}/state"\n'
        '[servers.main]\nconninfo = "host=127.0.0.1 port=1 user=Bar"\nstreaming_archiver = true\nslot_name = "s"\n'
    )
    (tmp_path / "a home").mkdir(mode=0o500)
    config = load(str(file), env={})
    found = check(config)
    assert f"install -d -o {account()} '{tmp_path}/a home/main'  # as root" in found["directories"].fix
    assert found["last backup"].fix == f"cellarman --config '{file}' backup main"
    assert found["WAL receiver"].fix.startswith(f"cellarman --config '{file}' cron  # starts it")
