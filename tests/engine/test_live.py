"""What running servers say, asked in the background; one that does not answer keeps nobody waiting."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import Server
from engine.errors import CellarmanError
from engine.status import ServerStatus, live
from engine.status.live import Live, Poller
from tests.support import cluster
from tests.support.fleet import NOW
from tests.support.waiting import until


def server(name: str, conninfo: str, **settings: object) -> Server:
    return Server(name, "/nowhere", conninfo=conninfo, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


@contextlib.contextmanager
def polled(*servers: Server) -> Iterator[tuple[Poller, threading.Event]]:
    changed = threading.Event()
    poller = Poller(servers, changed.set)
    poller.start()
    try:
        yield poller, changed
    finally:
        poller.stop()


def test_a_server_that_answers_says_version_place_and_role(each_postgres: cluster.Install, tmp_path: Path) -> None:
    with cluster.running(each_postgres, tmp_path / "pg") as running:
        pulse = live.ask(server("main", running.conninfo, slot_name="nobody"))
    assert pulse.version_num // 10000 == each_postgres.major
    assert pulse.lsn is not None and not pulse.in_recovery
    assert (pulse.failed_wal, pulse.slot_active, pulse.slot_lost) == ("", None, False)


def test_a_server_that_refuses_is_said_in_libpqs_words() -> None:
    with pytest.raises(CellarmanError) as refused:
        live.ask(server("main", "host=127.0.0.1 port=1 user=nobody"))
    assert "Connection refused" in live.short(refused.value.why)


def test_the_dead_keep_the_living_waiting_for_less_than_a_moment(postgres: cluster.Install, tmp_path: Path) -> None:
    with cluster.running(postgres, tmp_path / "pg") as running, silent_port() as port:
        dead = [server(f"dead{i}", f"host=127.0.0.1 port={port} user=x") for i in range(12)]
        well = server("well", running.conninfo)
        with polled(*dead, well) as (poller, changed):
            until(lambda: "well" in poller.answers())
            poller.wake()
            answer = poller.answers()["well"]
            until(lambda: poller.answers()["well"].at > answer.at, seconds=live.PATIENCE * 3)
            assert changed.is_set()
            until(lambda: len(poller.answers()) == 13, seconds=live.PATIENCE * 6)
            reasons = {found.reason for found in poller.answers().values() if found.pulse is None}
            assert len(reasons) == 1 and "timeout" in reasons.pop()


def test_one_that_does_not_answer_is_asked_later_and_later() -> None:
    with polled(server("dead", "host=127.0.0.1 port=1 user=x")) as (poller, _):
        until(lambda: "dead" in poller.answers())
        first = last = poller.answers()["dead"]
        assert first.again is not None and first.again > first.at
        for _ in range(4):
            poller.wake()
            until(lambda last=last: poller.answers()["dead"].at > last.at)  # type: ignore[misc]
            last = poller.answers()["dead"]
        # 20 seconds have become 120; both are said to the minute.
        assert last.again is not None
        assert last.again - last.at > first.again - first.at


def test_a_server_that_is_back_is_heard_again(postgres: cluster.Install, tmp_path: Path) -> None:
    with cluster.running(postgres, tmp_path / "pg") as running:
        running.stop()
        with polled(server("main", running.conninfo)) as (poller, _):
            until(lambda: "main" in poller.answers())
            assert poller.answers()["main"].pulse is None
            running.start()
            poller.wake()
            until(lambda: poller.answers()["main"].pulse is not None)


@pytest.mark.parametrize(("health", "backups", "expected"), [("ok", True, "warning"), ("ok", False, "unknown")])
def test_a_server_that_does_not_answer_is_worth_a_look(health: str, backups: bool, expected: str) -> None:
    from engine.repository.backupinfo import BackupInfo

    infos = (BackupInfo("20261122T010000", server_name="main"),) if backups else ()
    status = ServerStatus("main", health, backups=infos)  # type: ignore[arg-type]
    silent = Live("main", NOW, None, "connection to server failed: No route to host", again=NOW)
    found = live.judged(status, silent, server("main", "host=x"))
    assert found.health == expected
    assert found.findings[0].what == "PostgreSQL does not answer: No route to host"


def test_what_is_worse_stays_worse() -> None:
    status = ServerStatus("main", "critical")
    silent = Live("main", NOW, None, "no", again=NOW)
    assert live.judged(status, silent, server("main", "host=x")).health == "critical"
    assert live.judged(status, None, server("main", "host=x")) is status
