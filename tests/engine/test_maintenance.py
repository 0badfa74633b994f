"""One pass of maintenance over real servers, and the agent that makes it for ever."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engine import maintenance, trail
from engine.backup import streaming
from engine.errors import CellarmanError, Refused
from engine.event import Silent
from engine.host.machine import machine
from engine.postgres import connection
from engine.repository import annotations, locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import condemned, index, receiver
from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, gone, site
from tests.support.sshd import sshd
from tests.support.waiting import until


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str, level: str = "info") -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def cluster(postgres: Install) -> Iterator[Cluster]:
    with running(postgres) as server:
        yield server


def aged(where: Site, days: int) -> BackupInfo:
    """Take a backup and make it look as if it had been taken days ago."""
    layout = where.server.layout
    info = streaming.take(where.server)
    ago = datetime.now(timezone.utc) - timedelta(days=days)
    old = replace(info, begin_time=ago, end_time=ago)
    repository.save(layout, old)
    return old


def test_wal_that_comes_late_makes_the_backup_done(postgres: Install, tmp_path: Path) -> None:
    with (
        running(postgres, archive_mode="on", archive_command=f"mv %p {tmp_path}/%f") as cluster,
        site(cluster, archiver=True, streaming_archiver=False, wal_timeout=1) as where,
    ):
        with pytest.raises(CellarmanError):
            streaming.take(where.server)
        assert maintenance.pass_over(where.config) == []
        [info] = where.backups()
        assert info.status == "WAITING_FOR_WALS"
        for name in repository.required_wal(info):
            shutil.copy2(tmp_path / name, where.repo / "incoming" / name)
        assert maintenance.pass_over(where.config) == []
        [info] = where.backups()
        assert info.status == "DONE" and info.usable


def test_what_a_dead_barman_left_is_barmans(cluster: Cluster) -> None:
    with site(cluster) as where:
        repository.prepare(where.server.layout)
        repository.save(where.server.layout, BackupInfo("20260101T000000", server_name="main", status="STARTED"))
        assert maintenance.pass_over(where.config) == []
        assert where.backups()[0].status == "STARTED"


def test_a_backup_that_runs_is_left_alone(cluster: Cluster) -> None:
    with site(cluster) as where:
        layout = where.server.layout
        repository.prepare(layout)
        repository.save(layout, BackupInfo("20260101T000000", server_name="main", status="STARTED"))
        repository.save_facts(layout, "20260101T000000", {"job": "x"})
        with locks.hold(layout.lock("backup")), locks.hold(layout.lock("20260101T000000")):
            assert maintenance.pass_over(where.config) == []
        assert where.backups()[0].status == "STARTED"
        assert maintenance.pass_over(where.config) == []
        assert where.backups()[0].status == "FAILED"


def test_retention_deletes_what_the_policy_gives_up_and_no_more(cluster: Cluster) -> None:
    with site(cluster, retention_policy="RECOVERY WINDOW OF 7 DAYS") as where:
        layout = where.server.layout
        kept = aged(where, 40)
        annotations.set_keep(layout, kept.id, "full")
        obsolete, reaching, young = aged(where, 30), aged(where, 10), aged(where, 1)
        where.configure(retention_policy="RECOVERY WINDOW OF 7 DAYS", protected=True)
        assert maintenance.pass_over(where.config) == []
        assert len(where.backups()) == 4
        where.configure(retention_policy="RECOVERY WINDOW OF 7 DAYS")
        notes = Notes()
        assert maintenance.pass_over(where.config, report=notes) == []
        assert [info.id for info in where.backups()] == [young.id, reaching.id, kept.id]
        assert any(obsolete.id in text and "was deleted" in text for text in notes.texts)
        (line,) = trail.read(where.config.state_directory)
        assert (line.action, line.subject, line.outcome, line.via) == ("delete", obsolete.id, "done", "maintenance")


def test_an_interrupted_deletion_is_finished(cluster: Cluster) -> None:
    with site(cluster) as where:
        layout = where.server.layout
        first = streaming.take(where.server)
        second = streaming.take(where.server)
        annotations.set_deleting(layout, first.id)
        assert maintenance.pass_over(where.config) == []
        assert [info.id for info in where.backups()] == [second.id]
        assert not os.path.exists(layout.backup(first.id)) and not os.path.exists(layout.own_facts(first.id))


def test_facts_of_a_backup_that_never_was_are_swept(cluster: Cluster) -> None:
    with site(cluster) as where:
        layout = where.server.layout
        repository.prepare(layout)
        repository.save_facts(layout, "20260101T000000", {"job": "x"})
        assert maintenance.pass_over(where.config) == []
        assert not os.path.exists(layout.own_facts("20260101T000000"))


def test_one_servers_trouble_never_stops_the_others(cluster: Cluster) -> None:
    with site(cluster) as where:
        first, mark, rest = where.path.read_text().partition("[servers.main]")
        broken = '[servers.aaa]\nconninfo = "host=/nowhere"\narchiver = true\n'
        where.path.write_text(first + broken + mark + rest)
        meta = where.config.server("aaa").layout.meta
        os.makedirs(os.path.dirname(meta))
        with open(meta, "w"):
            pass  # a file where a directory must be
        problems = maintenance.pass_over(where.config)
        assert problems and all(problem.startswith("aaa: ") for problem in problems)
        assert receiver.alive(where.server.layout) is not None
        assert where.run("cron").returncode == 1


def test_a_server_that_streams_no_more_is_received_no_more(cluster: Cluster) -> None:
    with site(cluster) as where:
        assert maintenance.pass_over(where.config) == []
        first = receiver.alive(where.server.layout)
        elsewhere = replace(where.config, files=("/elsewhere.toml",), servers={})
        assert maintenance.pass_over(elsewhere) == [] and receiver.alive(where.server.layout) == first
        where.configure(streaming_archiver=False, archiver=True)
        notes = Notes()
        assert maintenance.pass_over(where.config, report=notes) == []
        assert receiver.alive(where.server.layout) is None
        assert any("main: it does not stream by the configuration any more" in text for text in notes.texts)
        assert any("pg_drop_replication_slot('cellarman')" in text for text in notes.texts)
        where.configure()
        assert maintenance.pass_over(where.config) == []
        pid = receiver.alive(where.server.layout).pid
        where.path.write_text(where.path.read_text().replace("[servers.main]", "[servers.other]"))
        where.run("cron")
        assert gone(pid)
        os.kill(receiver.alive(where.config.server("other").layout).pid, signal.SIGTERM)
        where.configure()


def test_a_receiver_that_gets_nothing_for_a_while_is_said(cluster: Cluster) -> None:
    def said() -> list[str]:
        notes = Notes()
        assert maintenance.pass_over(where.config, report=notes) == []
        return [text for text in notes.texts if "nothing comes" in text]

    cluster.sql("CREATE ROLE plain LOGIN")  # it may not replicate
    with site(cluster, create_slot="manual") as where:
        cluster.sql("SELECT pg_create_physical_replication_slot('cellarman')")
        barred = cluster.conninfo.replace("user=postgres", "user=plain")
        where.configure(streaming_conninfo=barred, create_slot="manual")
        layout = where.server.layout
        assert said() == []
        until(lambda: "receiving stopped" in receiver.last_words(layout, 1), "it was refused")
        assert said() == [], "it may come with the next try"
        os.utime(layout.streaming, (1, 1))
        (found,) = said()
        assert found.startswith("main: the WAL receiver runs, and nothing comes: ")
        assert "FATAL" in found
        assert found.endswith(f"; what to do about it: cellarman --config {where.path} check main")
        where.configure(create_slot="manual")
        assert said() == []
        until(lambda: cluster.value("SELECT active FROM pg_replication_slots"), "it receives")
        assert said() == []


def test_a_pass_by_ssh_is_one_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    with sshd(tmp_path / "far") as far, site(cluster, streaming_archiver=False, archiver=True) as where:
        words = [sys.executable, "-m", "engine.cli.main", "--config", str(where.path), "cron"]
        with machine(far.endpoint) as host:
            done = host.run(["env", "-C", os.getcwd(), *words])
        assert done.status == 0, done.words
        layout = where.server.layout
        assert os.path.exists(layout.by_hand) and not os.path.exists(layout.by_itself)
        subprocess.run(words, check=True, start_new_session=True)
        assert os.path.exists(layout.by_itself)


def test_a_pass_beside_another_is_no_failure(cluster: Cluster) -> None:
    with site(cluster) as where:
        repository.prepare(where.server.layout)
        notes = Notes()
        with locks.hold(where.server.layout.lock("cron")):
            assert maintenance.pass_over(where.config, report=notes) == []
        assert any(str(os.getpid()) in text for text in notes.texts)


def test_read_only_does_nothing(cluster: Cluster) -> None:
    with site(cluster) as where:
        with pytest.raises(Refused):
            maintenance.pass_over(replace(where.config, read_only=True))
        assert not where.repo.exists()
        assert where.run("--read-only", "cron").returncode == 3
        assert where.run("--read-only", "agent").returncode == 3


def test_the_agent_takes_in_what_arrives_and_ends_when_asked(cluster: Cluster) -> None:
    with site(cluster) as where, where.start("agent") as agent:
        layout = where.server.layout
        holder = until(lambda: receiver.alive(layout), "the receiver runs")
        until(lambda: cluster.value("SELECT count(*) FROM pg_replication_slots WHERE active"), "it streams")
        cluster.sql("SELECT pg_create_restore_point('agent')")
        name = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("SELECT txid_current()")
        until(lambda: os.path.exists(layout.wal(name)), "the segment is archived")
        until(lambda: any(e.name == "agent" for e in index.events(layout, "restore_point")), "and indexed")
        os.kill(holder.pid, signal.SIGKILL)
        until(lambda: gone(holder.pid), "the receiver is dead")
        cluster.sql("SELECT pg_switch_wal()")
        where.path.write_text(where.path.read_text() + "\nnonsense\n")
        assert agent.poll() is None
        agent.send_signal(signal.SIGTERM)
        _, err = agent.communicate(timeout=30)
        assert agent.returncode == 0, err
        where.configure()


def test_archived_wal_is_read_whole_and_what_is_bad_is_said_once(cluster: Cluster) -> None:
    with site(cluster, streaming_archiver=False, archiver=True, compression="none") as where:
        repository.prepare(where.server.layout)
        cluster.sql("CREATE TABLE IF NOT EXISTS read_whole AS SELECT generate_series(1, 1000)")
        name = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
        shutil.copy2(cluster.data / "pg_wal" / name, where.repo / "incoming" / name)
        assert maintenance.pass_over(where.config) == []
        assert condemned.names(where.server.layout) == []
        path = where.server.layout.wal(name)
        good = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(60)
            byte = file.read(1)
            file.seek(60)
            file.write(bytes([byte[0] ^ 1]))
        notes = Notes()
        assert maintenance.pass_over(where.config, report=notes) == []
        assert condemned.names(where.server.layout) == []  # it was read this week
        os.utime(path, ns=(good.st_atime_ns, good.st_mtime_ns))
        hurried = replace(where.server, wal_verify_interval="0 HOURS")
        notes = Notes()
        for _ in range(2):
            maintenance.pass_over(replace(where.config, servers={"main": hurried}), report=notes)
        assert [text for text in notes.texts if name in text and "is bad" in text] != []
        assert len([text for text in notes.texts if name in text and "is bad" in text]) == 1
        assert condemned.names(where.server.layout) == [name]
        none = replace(where.server, wal_verify_budget=0, wal_verify_interval="0 HOURS")
        shutil.rmtree(condemned.directory(where.server.layout))
        maintenance.pass_over(replace(where.config, servers={"main": none}))
        assert condemned.names(where.server.layout) == []


def test_what_the_server_still_holds_of_a_failed_backup_is_ended_and_nothing_else(cluster: Cluster) -> None:
    with site(cluster) as where:
        info = aged(where, 0)
        layout = where.server.layout
        client = repository.facts(layout, info.id)["client"]
        with (
            connection.connect(cluster.conninfo, application_name=client) as leftover,
            connection.connect(cluster.conninfo, application_name="cellarman_backup_20200101T000000") as foreign,
        ):
            assert maintenance.pass_over(where.config) == []  # it is DONE: nothing is looked for
            repository.save(layout, replace(info, status="FAILED", error="the link was lost"))
            notes = Notes()
            with locks.hold(layout.lock(info.id)):
                assert maintenance.one_server(where.config, where.server, notes) == []
            assert not any(client in text for text in notes.texts)  # somebody works on it
            assert maintenance.one_server(where.config, where.server, notes) == []
            assert any(f"1 session of backup {info.id}" in text and client in text for text in notes.texts)
            names = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup_%'"
            until(lambda: cluster.sql(names) == [("cellarman_backup_20200101T000000",)], "only it is ended")
            assert not foreign.closed and leftover is not foreign
