"""pg_receivewal kept alive against real servers: WAL flows, whatever is killed, and there is never a second one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from engine.config import Server
from engine.errors import Busy, CellarmanError, Refused
from engine.postgres import segment
from engine.repository import xlogdb
from engine.wal import receiver
from engine.wal.ingest import ingest
from tests.engine.wal import pages
from tests.support.cluster import Cluster, Install, running
from tests.support.site import gone, processes
from tests.support.waiting import until

MB = 1 << 20


@dataclass
class Streaming:
    """A real server and the Server that receives from it."""

    cluster: Cluster
    server: Server

    @property
    def supervisor(self) -> int:
        holder = receiver.alive(self.server.layout)
        return holder.pid if holder is not None else 0

    @property
    def pg_receivewal(self) -> int:
        return next(iter(processes("pg_receivewal", "--no-loop", self.server.layout.streaming)), 0)

    @property
    def streams(self) -> bool:
        return bool(self.cluster.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))

    def write(self) -> str:
        """Write something, end the segment, and return its name."""
        self.cluster.sql("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)")
        return str(self.cluster.value("SELECT pg_walfile_name(pg_switch_wal())"))

    def received(self, name: str) -> bool:
        """Tell whether a segment is in the archive, taking in what has arrived."""
        ingest(self.server)
        return os.path.exists(self.server.layout.wal(name))

    def archived(self) -> list[int]:
        names = {line.name for line in xlogdb.read(self.server.layout).lines}
        return sorted(segment.parse_segment(name, MB)[1] for name in names if len(name) == 24)

    def stop(self) -> None:
        if self.supervisor:
            os.kill(self.supervisor, signal.SIGTERM)
            until(lambda: not self.supervisor, "the receiver has stopped")


@pytest.fixture
def streaming(each_postgres: Install) -> Iterator[Streaming]:
    yield from _streaming(each_postgres)


@pytest.fixture
def newest(postgres: Install) -> Iterator[Streaming]:
    yield from _streaming(postgres)


def _streaming(install: Install) -> Iterator[Streaming]:
    root = Path(tempfile.mkdtemp(prefix="cm-receive-"))
    layout = pages.make_layout(root)
    try:
        with running(install, root / "server", ["--wal-segsize=1"]) as cluster:
            made = Streaming(
                cluster,
                Server(
                    "main",
                    os.path.dirname(layout.home),
                    conninfo=cluster.conninfo,
                    streaming_archiver=True,
                    slot_name="cellarman",
                    path_prefix=str(install.bindir),
                    lock_timeout=5,
                ),
            )
            try:
                yield made
            finally:
                made.stop()
    finally:
        shutil.rmtree(root)


def test_wal_flows_through_every_kill_and_restart_without_a_gap(streaming: Streaming) -> None:
    assert receiver.alive(streaming.server.layout) is None
    assert receiver.ensure(streaming.server)
    assert not receiver.ensure(streaming.server)
    until(lambda: streaming.streams, "it streams")
    assert streaming.cluster.sql("SELECT slot_name, active FROM pg_replication_slots") == [("cellarman", True)]
    first = streaming.write()
    until(lambda: streaming.received(first), "the first segment is archived")

    killed = streaming.pg_receivewal
    os.kill(killed, signal.SIGKILL)
    until(lambda: streaming.pg_receivewal not in (0, killed), "pg_receivewal runs again")
    second = streaming.write()
    until(lambda: streaming.received(second), "a segment after the kill is archived")

    streaming.cluster.stop("fast")
    streaming.cluster.start()
    third = streaming.write()
    until(lambda: streaming.received(third), "a segment after the restart is archived", 40)
    numbers = streaming.archived()
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len(processes("pg_receivewal", streaming.server.layout.streaming)) == 1

    supervisor, child = streaming.supervisor, streaming.pg_receivewal
    streaming.stop()
    until(lambda: gone(supervisor) and gone(child), "both are gone")
    assert not streaming.cluster.value("SELECT active FROM pg_replication_slots")


def _taken_back(streaming: Streaming, before: Path) -> None:
    """Put the server back to what `before` holds, on a timeline of its own, as a restore to that moment does."""
    cluster = streaming.cluster
    cluster.stop("immediate")
    shutil.rmtree(cluster.data)
    shutil.copytree(before, cluster.data, symlinks=True)
    (cluster.data / "recovery.signal").touch()
    cluster.configure(restore_command="false")
    cluster.start()
    until(lambda: not cluster.value("SELECT pg_is_in_recovery()"), "it is promoted")


@pytest.mark.parametrize("recycled", [False, True])
def test_after_a_restore_of_the_server_its_new_timeline_is_received(
    streaming: Streaming, tmp_path: Path, recycled: bool
) -> None:
    cluster, layout = streaming.cluster, streaming.server.layout
    receiver.ensure(streaming.server)
    until(lambda: streaming.streams, "it streams")
    first = streaming.write()
    until(lambda: streaming.received(first), "the first segment is archived")
    cluster.stop()
    shutil.copytree(cluster.data, tmp_path / "before", symlinks=True)
    cluster.start()
    for _ in range(3):
        lost = streaming.write()
    until(lambda: streaming.received(lost), "WAL that the restored server does not have is archived")
    if recycled:
        streaming.stop()
    _taken_back(streaming, tmp_path / "before")
    if recycled:
        cluster.sql("SELECT pg_drop_replication_slot('cellarman')")
        for _ in range(80):
            streaming.write()
        cluster.sql("CHECKPOINT")
        receiver.ensure(streaming.server)
    else:
        fork = int(str(cluster.value("SELECT pg_walfile_name(pg_switch_wal())"))[16:], 16)
    until(lambda: streaming.streams, "it streams from the new timeline", 40)
    new = streaming.write()
    assert new.startswith("00000002")
    until(lambda: streaming.received(new), "a segment of the new timeline is archived", 40)
    assert streaming.received("00000002.history")
    assert os.path.exists(layout.wal(lost))
    if not recycled:
        received = [n for n in os.listdir(os.path.dirname(layout.wal(new))) if len(n) == 24]
        assert min(int(name[16:], 16) for name in received) <= fork
    assert os.listdir(layout.errors) == []


def test_a_killed_supervisor_takes_its_child_along_and_is_replaced(newest: Streaming) -> None:
    receiver.ensure(newest.server)
    until(lambda: newest.streams, "it streams")
    first = newest.write()
    child = newest.pg_receivewal
    os.kill(newest.supervisor, signal.SIGKILL)
    until(lambda: gone(child) and newest.supervisor == 0, "the child died with it and the lock is free")
    assert receiver.ensure(newest.server)
    until(lambda: newest.received(first), "WAL of the time without a receiver comes by the slot")


def test_a_slot_that_is_there_is_not_asked_for_again(newest: Streaming) -> None:
    for _ in range(2):
        receiver.ensure(newest.server)
        until(lambda: newest.streams, "it streams")
        newest.stop()
    assert "already exists" not in newest.cluster.log


def test_it_is_nobodys_child_and_survives_its_terminal(newest: Streaming) -> None:
    program = (
        "import json, sys; from engine.config import Server; from engine.wal import receiver\n"
        "print(receiver.ensure(Server(**json.loads(sys.argv[1]))))\n"
    )
    words = [sys.executable, "-c", program, json.dumps(asdict(newest.server))]
    starter = subprocess.run(words, capture_output=True, text=True, check=True, start_new_session=True, timeout=30)
    assert starter.stdout.strip() == "True"
    pid = newest.supervisor
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) != os.getsid(0)
    os.kill(pid, signal.SIGHUP)
    until(lambda: newest.streams, "it streams")
    assert newest.supervisor == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_many_that_ensure_at_once_start_one(newest: Streaming) -> None:
    started: list[bool] = []
    threads = [threading.Thread(target=lambda: started.append(receiver.ensure(newest.server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == [False, False, False, True]
    until(lambda: newest.streams, "it streams")
    assert len(processes("engine.wal.receiver", newest.server.name)) >= 1
    assert len(processes("pg_receivewal", newest.server.layout.streaming)) == 1


def test_a_second_in_the_foreground_is_refused_and_names_the_first(newest: Streaming) -> None:
    receiver.ensure(newest.server)
    with pytest.raises(Busy) as caught:
        receiver.receive(newest.server)
    assert f"process {newest.supervisor}" in caught.value.why


def test_a_password_reaches_the_program_but_no_argument_and_no_log(newest: Streaming) -> None:
    newest.cluster.sql("CREATE ROLE streamer REPLICATION LOGIN PASSWORD 'hunter2secret'")
    hba = newest.cluster.data / "pg_hba.conf"
    hba.write_text("host replication streamer 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    newest.cluster.sql("SELECT pg_reload_conf()")
    conninfo = f"host=127.0.0.1 port={newest.cluster.port} user=streamer password=hunter2secret"
    server = replace(newest.server, streaming_conninfo=conninfo)
    assert receiver.ensure(server)
    until(lambda: newest.streams, "it streams with the password")
    for pid in processes(newest.server.layout.streaming) + processes("engine.wal.receiver"):
        assert b"hunter2secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert "hunter2secret" not in Path(receiver.log_path(server.layout)).read_text()


def test_a_server_that_is_down_is_tried_again(newest: Streaming) -> None:
    newest.cluster.stop("fast")
    assert receiver.ensure(newest.server)
    until(lambda: "again in 2 s" in receiver.last_words(newest.server.layout, 50), "it tried twice")
    newest.cluster.start()
    until(lambda: newest.streams, "it streams")


def test_commits_that_wait_for_it_do_not_wait_long(newest: Streaming) -> None:
    newest.cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'cellarman_receive_wal'")
    newest.cluster.sql("SELECT pg_reload_conf()")
    receiver.ensure(newest.server)
    until(lambda: newest.streams, "it streams")
    began = time.monotonic()
    for _ in range(5):
        newest.write()
    assert time.monotonic() - began < 8


def test_settings_that_were_corrected_are_taken_up(newest: Streaming) -> None:
    wrong = replace(newest.server, conninfo=f"{newest.server.conninfo} password=hunter2secret", slot_name="other")
    assert receiver.ensure(wrong)
    first = newest.supervisor
    kept = Path(newest.server.layout.own, "receive-wal.started")
    assert kept.stat().st_mode & 0o777 == 0o600 and "hunter2secret" not in kept.read_text()
    assert not receiver.ensure(newest.server) and not receiver.ensure(wrong, renew=True)
    assert newest.supervisor == first
    assert receiver.ensure(newest.server, renew=True)
    assert newest.supervisor not in (0, first)
    assert not receiver.ensure(newest.server, renew=True)


def test_sigterm_while_it_waits_to_try_again(newest: Streaming) -> None:
    newest.cluster.stop("fast")
    receiver.ensure(newest.server)
    until(lambda: "again in" in receiver.last_words(newest.server.layout), "it waits")
    began = time.monotonic()
    newest.stop()
    assert time.monotonic() - began < 5


def test_it_ends_with_its_repository(newest: Streaming) -> None:
    receiver.ensure(newest.server)
    until(lambda: newest.streams, "it streams")
    supervisor = newest.supervisor
    shutil.rmtree(newest.server.barman_home)
    newest.cluster.stop("fast")
    until(lambda: gone(supervisor), "the receiver has ended")


def test_a_server_that_does_not_stream(newest: Streaming) -> None:
    server = replace(newest.server, streaming_archiver=False)
    assert not receiver.ensure(server)
    with pytest.raises(Refused, match="streaming_archiver is false"):
        receiver.receive(server)


def test_one_that_cannot_start_says_why(newest: Streaming) -> None:
    locks = Path(newest.server.layout.locks, ".main-receive-wal.lock")
    locks.mkdir()
    with pytest.raises(CellarmanError):
        receiver.ensure(newest.server)
    locks.rmdir()
