"""Checks against real PostgreSQL servers that were broken on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engine.check import runner
from engine.check.result import CheckResult
from engine.config import Config, load
from engine.repository import identity, repository
from engine.wal import receiver
from tests.support import cluster
from tests.support.site import Site, site
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(each_postgres: cluster.Install) -> Iterator[cluster.Cluster]:
    small = ["--wal-segsize=1"]
    with cluster.running(each_postgres, extra=small, archive_mode="on", archive_command="test -f %p") as found:
        found.sql("CREATE ROLE plain LOGIN")
        found.sql("CREATE ROLE locked LOGIN REPLICATION PASSWORD 'right'")
        hba = found.data / "pg_hba.conf"
        hba.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        found.sql("SELECT pg_reload_conf()")
        yield found


def configuration(root: Path, install: cluster.Install, conninfo: str, **more: str) -> Config:
    home = root / "barman"
    home.mkdir(exist_ok=True)
    lines = [f"{key} = {value}" for key, value in more.items()]
    file = root / "cellarman.toml"
    file.write_text(
        f'[cellarman]\nbarman_home = "{home}"\nstate_directory = "{root}/state"\n[servers.main]\n'
        f'conninfo = "{conninfo}"\npath_prefix = "{install.bindir}"\n' + "\n".join(lines) + "\n"
    )
    file.chmod(0o600)
    return load(str(file))


def check(config: Config) -> dict[str, CheckResult]:
    results = runner.run(config, config.server("main"), datetime.now(timezone.utc))
    return {result.name: result for result in results}


def test_a_good_server(server: cluster.Cluster, tmp_path: Path) -> None:
    found = check(configuration(tmp_path, server.install, server.conninfo, streaming_archiver="true", slot_name='"s"'))
    assert {name for name, result in found.items() if result.status == "fail"} == {"WAL receiver"}
    assert found["PostgreSQL"].detail.startswith(f"{server.install.major}.")
    assert found["replication connection"].status == "ok"
    assert found["system identifier"].detail == str(server.value("SELECT system_identifier FROM pg_control_system()"))
    assert found["pg_basebackup"].detail.startswith(str(server.install.bindir))


def test_server_down_says_what_libpq_says(postgres: cluster.Install, tmp_path: Path) -> None:
    conninfo = f"host=127.0.0.1 port={cluster.free_port()} user=postgres dbname=postgres"
    found = check(configuration(tmp_path, postgres, conninfo, archiver="true"))
    assert found["PostgreSQL"].status == "fail"
    assert "Connection refused" in found["PostgreSQL"].detail
    assert found["PostgreSQL"].fix
    assert found["wal_level"].status == "skip"
    assert found["directories"].status == "ok"


def test_wrong_password_is_not_shown(server: cluster.Cluster, tmp_path: Path) -> None:
    conninfo = f"host=127.0.0.1 port={server.port} user=locked dbname=postgres password=wrongsecret"
    found = check(configuration(tmp_path, server.install, conninfo, archiver="true"))
    assert found["PostgreSQL"].status == "fail"
    assert "password authentication failed" in found["PostgreSQL"].detail
    assert "pgpass" in found["PostgreSQL"].fix
    assert "wrongsecret" not in repr(found)


def test_role_without_rights(server: cluster.Cluster, tmp_path: Path) -> None:
    conninfo = f"host=127.0.0.1 port={server.port} user=plain dbname=postgres"
    found = check(configuration(tmp_path, server.install, conninfo, archiver="true"))
    assert found["privileges"].status == "fail"
    replication = found["replication connection"]
    assert replication.status == "fail"
    assert replication.fix == 'ALTER ROLE "plain" REPLICATION;  -- in psql, as a superuser'
    try:
        server.sql(f"{found['privileges'].fix}\n{replication.fix}")
        mended = check(configuration(tmp_path, server.install, conninfo, archiver="true"))
        assert mended["privileges"].status == "ok"
        assert mended["replication connection"].status == "ok"
    finally:
        server.sql("DROP OWNED BY plain; ALTER ROLE plain NOREPLICATION")


def test_missing_slot_and_the_statement_that_makes_it(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(
        tmp_path, server.install, server.conninfo, streaming_archiver="true", slot_name='"it"', create_slot='"manual"'
    )
    missing = check(config)["replication slot"]
    assert missing.status == "fail"
    server.sql(missing.fix)
    try:
        assert check(config)["replication slot"].detail.startswith("it, not active")
    finally:
        server.sql("SELECT pg_drop_replication_slot('it')")


def test_lost_slot(server: cluster.Cluster, tmp_path: Path) -> None:
    server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    server.sql("SELECT pg_reload_conf()")
    server.sql("SELECT pg_create_physical_replication_slot('gone', true)")
    try:

        def lost() -> bool:
            server.sql("CREATE TABLE t AS SELECT generate_series(1, 50000) AS n")
            server.sql("DROP TABLE t")
            server.sql("SELECT pg_switch_wal()")
            server.sql("CHECKPOINT")
            status = server.value("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'gone'")
            return bool(status == "lost")

        until(lost, "the loss of the slot")
        found = check(
            configuration(tmp_path, server.install, server.conninfo, streaming_archiver="true", slot_name='"gone"')
        )["replication slot"]
        assert found.status == "fail"
        assert "lost" in found.detail
        assert found.fix.startswith("SELECT pg_drop_replication_slot('gone');")
    finally:
        server.sql("SELECT pg_drop_replication_slot('gone')")
        server.sql("ALTER SYSTEM RESET max_slot_wal_keep_size")
        server.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("", "archive_command", "empty"),
        ("/bin/true", "archive_command", "stored nowhere"),
        ("cp %p /nowhere/%f || true", "archive_command", "stored nowhere"),
    ],
)
def test_archive_commands_that_archive_nothing(
    server: cluster.Cluster, tmp_path: Path, command: str, name: str, words: str
) -> None:
    with archive_command(server, command):
        found = check(configuration(tmp_path, server.install, server.conninfo, archiver="true"))[name]
    assert found.status == "fail"
    assert words in found.detail
    assert "push %p --server main --config" in found.fix


def test_an_archive_command_for_another_server(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    for name, status in (("other", "warn"), ("main", "ok")):
        with archive_command(server, f"cellarman-wal push %p --server {name}"):
            found = check(config)["archive_command"]
        assert found.status == status, found
        assert name in found.detail


@contextlib.contextmanager
def archive_command(server: cluster.Cluster, command: str) -> Iterator[None]:
    server.sql("ALTER SYSTEM SET archive_command = '" + command.replace("'", "''") + "'")
    server.sql("SELECT pg_reload_conf()")
    wait_until(server, f"current_setting('archive_command') IN ('{command}', '(disabled)')")
    try:
        yield
    finally:
        server.sql("ALTER SYSTEM RESET archive_command")
        server.sql("SELECT pg_reload_conf()")


def wait_until(server: cluster.Cluster, condition: str) -> None:
    until(lambda: server.value(f"SELECT {condition}"), condition)


def test_archive_command_that_fails(server: cluster.Cluster, tmp_path: Path) -> None:
    with archive_command(server, "cp %p /no/such/directory/%f"):
        server.sql("SELECT pg_create_restore_point('x')")
        server.sql("SELECT pg_switch_wal()")
        wait_until(
            server,
            "coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver",
        )
        found = check(configuration(tmp_path, server.install, server.conninfo, archiver="true"))
    assert found["archive_command"].status == "warn"
    assert found["continuous archiving"].status == "fail"
    assert "0000000100000000" in found["continuous archiving"].detail


def test_a_receiver_that_runs_and_receives_nothing(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(
        tmp_path,
        server.install,
        server.conninfo,
        streaming_conninfo=f'"{server.conninfo.replace("user=postgres", "user=plain")}"',
        streaming_archiver="true",
        slot_name='"idle"',
        create_slot='"manual"',
    )
    layout = config.server("main").layout
    repository.prepare(layout)
    server.sql("SELECT pg_create_physical_replication_slot('idle')")
    receiver.ensure(config.server("main"))
    try:
        until(lambda: "receiving stopped" in receiver.last_words(layout, 1), "it was refused")
        found = check(config)
        assert found["WAL receiver"].status == "fail" and "nothing comes: " in found["WAL receiver"].detail
        assert receiver.log_path(layout) in found["replication slot"].fix
    finally:
        holder = receiver.alive(layout)
        assert holder is not None
        os.kill(holder.pid, signal.SIGTERM)
        until(lambda: receiver.alive(layout) is None, "the receiver has stopped")
        server.sql("SELECT pg_drop_replication_slot('idle')")


def test_no_sender_left(server: cluster.Cluster, tmp_path: Path) -> None:
    restart(server, max_wal_senders="1")
    taken = subprocess.Popen(
        [str(server.install.bindir / "pg_receivewal"), "-D", str(tmp_path), "-d", server.conninfo],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(server, "count(*) = 1 FROM pg_stat_replication")
        found = check(configuration(tmp_path, server.install, server.conninfo, archiver="true"))
        assert found["WAL senders"].status == "fail"
        assert "1 of 1 in use" in found["WAL senders"].detail
        assert found["WAL senders"].fix.startswith("ALTER SYSTEM SET max_wal_senders = ")
        assert found["replication connection"].status == "fail"
        assert "max_wal_senders" in found["replication connection"].detail
    finally:
        taken.terminate()
        taken.wait(20)


def restart(server: cluster.Cluster, **settings: str) -> None:
    server.stop()
    server.configure(**settings)
    server.start()


def test_wal_level_minimal_and_archive_mode_off(server: cluster.Cluster, tmp_path: Path) -> None:
    restart(server, wal_level="minimal", archive_mode="off", max_wal_senders="0")
    try:
        found = check(configuration(tmp_path, server.install, server.conninfo, archiver="true"))
        assert found["wal_level"].status == "fail"
        assert found["wal_level"].fix.startswith("ALTER SYSTEM SET wal_level = 'replica'")
        assert found["archive_mode"].status == "fail"
        assert found["WAL senders"].status == "fail"
    finally:
        restart(server, wal_level="replica", archive_mode="on", max_wal_senders="3")


def test_a_server_that_never_answers_hides_nothing(postgres: cluster.Install, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        conninfo = f"host=127.0.0.1 port={silent.getsockname()[1]} user=postgres dbname=postgres"
        config = configuration(tmp_path, postgres, conninfo, archiver="true", check_timeout="3")
        began = time.monotonic()
        found = check(config)
        took = time.monotonic() - began
    assert took < 10
    assert found["PostgreSQL"].status == "fail"
    assert "timeout" in found["PostgreSQL"].detail or "no answer" in found["PostgreSQL"].detail
    assert len(found) == len(runner.CHECKS)
    assert found["directories"].status == "ok"


def test_program_older_than_the_server(server: cluster.Cluster, tmp_path: Path) -> None:
    older = [install for major, install in cluster.installs().items() if major < server.install.major]
    if not older:
        pytest.skip("nothing older here")
    found = check(configuration(tmp_path, older[0], server.conninfo, archiver="true"))["pg_basebackup"]
    # One that suits may stand elsewhere on this machine; the old one must never be taken.
    assert str(older[0].bindir) not in found.detail or found.status == "fail"


def test_repository_that_cannot_be_written(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    os.chmod(config.barman_home, 0o555)
    try:
        found = check(config)["directories"]
    finally:
        os.chmod(config.barman_home, 0o755)
    assert found.status == "fail"
    assert "no permission to write" in found.detail


@pytest.mark.parametrize("where", ["client", "server"])
def test_compression_that_the_build_lacks(server: cluster.Cluster, tmp_path: Path, where: str) -> None:
    found = check(
        configuration(
            tmp_path,
            server.install,
            server.conninfo,
            archiver="true",
            backup_compression='"zstd"',
            backup_compression_location=f'"{where}"',
        )
    )["backup compression"]
    taken = subprocess.run(
        [
            str(server.install.bindir / "pg_basebackup"),
            *("-d", server.conninfo, "-D", str(tmp_path / "taken"), "-Ft", "-X", "none", "-c", "fast"),
            f"--compress={where}-zstd",
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert found.status == ("ok" if taken.returncode == 0 else "fail"), found
    if found.status == "fail":
        assert "zstd" in found.detail.lower()
        assert 'backup_compression = "gzip"' in found.fix


def test_a_repository_of_another_cluster(server: cluster.Cluster, tmp_path: Path) -> None:
    config = configuration(tmp_path, server.install, server.conninfo, archiver="true")
    layout = config.server("main").layout
    os.makedirs(layout.home)
    identity.write(layout, 7710929279087522286, 15)
    found = check(config)["system identifier"]
    assert found.status == "fail"
    assert "the repository: 7710929279087522286" in found.detail
    assert layout.identity in found.fix


def test_a_slot_that_nobody_reads(server: cluster.Cluster, tmp_path: Path) -> None:
    server.sql("SELECT pg_create_physical_replication_slot('idle', true)")
    try:
        config = configuration(tmp_path, server.install, server.conninfo, archiver="true", slot_name='"idle"')
        unused = check(config)["replication slot"]
        assert unused.status == "warn"
        assert "keeps WAL for nobody" in unused.detail
        config = configuration(tmp_path, server.install, server.conninfo, streaming_archiver="true", slot_name='"idle"')
        inactive = check(config)["replication slot"]
        assert inactive.status == "warn"
        assert "not active" in inactive.detail
    finally:
        server.sql("SELECT pg_drop_replication_slot('idle')")


def test_a_tablespace_newer_than_the_last_backup(postgres: cluster.Install, tmp_path: Path) -> None:
    def last(where: Site) -> dict[str, str]:
        checks = where.json("check", "main")["checks"]
        return next(check for check in checks if check["name"] == "last backup")

    with cluster.running(postgres, extra=["--wal-segsize=1"]) as server, site(server) as where:
        where.run("cron")
        where.run("backup", "main")
        assert last(where)["status"] == "ok"
        place = tmp_path / "fast"
        place.mkdir()
        server.sql(f"CREATE TABLESPACE fast LOCATION '{place}'")
        found = last(where)
        assert found["status"] == "warn" and "before tablespace fast" in found["detail"]
        assert found["fix"].endswith("backup main")
        where.run("backup", "main")
        assert last(where)["status"] == "ok"
