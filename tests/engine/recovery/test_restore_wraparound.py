"""Transactions whose ids begin again from 3 within one archive: the plan of each is what PostgreSQL then does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg2
import pytest

from engine.recovery.target import XidTarget, parse_target
from tests.engine.recovery.scene import Mark, Scene, scene, value
from tests.support.cluster import Cluster, Install

_LIMIT = 1 << 32
_PER_FILE = 1 << 20
"""Transactions that one file of pg_xact holds."""


def jump(cluster: Cluster, xid: int) -> None:
    """Have the next transaction get an id, at most two thousand million on, and freeze everything before it."""
    cluster.stop()
    statuses = cluster.data / "pg_xact" / f"{xid // _PER_FILE:04X}"
    if not statuses.exists():
        statuses.write_bytes(bytes(_PER_FILE // 4))
        statuses.chmod(0o600)
    cluster.install.run("pg_resetwal", "-x", str(xid), "-D", str(cluster.data))
    cluster.start()
    cluster.sql("UPDATE pg_database SET datallowconn = true")
    for database in ("template0", "template1", "postgres"):
        with contextlib.closing(psycopg2.connect(cluster.conninfo, dbname=database)) as connection:
            connection.autocommit = True
            connection.cursor().execute("VACUUM FREEZE")


@pytest.fixture(scope="module")
def around(postgres: Install) -> Iterator[tuple[Scene, list[Mark]]]:
    """A backup, and transactions before and behind the point where their ids begin again."""
    with scene(postgres) as stage:
        for xid in (2_000_000_000, 3_900_000_000, _LIMIT - 8):
            jump(stage.cluster, xid)
        stage.backup()
        marks = []
        for number in range(14):
            marks.append(stage.insert(10))
            if number % 5 == 4:
                stage.archive_all()
        stage.archive_all()
        yield stage, marks


@pytest.mark.parametrize("inclusive", [True, False])
def test_the_last_id_and_the_first_ones_again(around: tuple[Scene, list[Mark]], inclusive: bool) -> None:
    stage, marks = around
    last = next(at for at, mark in enumerate(marks) if mark.xid > _LIMIT) - 1
    for at in (last, last + 1):
        target = XidTarget(marks[at].xid % _LIMIT, inclusive)
        plan = stage.plan(target)
        assert plan.kept and plan.dropped and plan.kept.xid == marks[at - (not inclusive)].xid % _LIMIT
        assert plan.dropped.xid == marks[at + inclusive].xid % _LIMIT
        with stage.restored(target) as (result, conninfo):
            assert result["verdict"] == "paused", result
            assert value(conninfo, "SELECT count(*) FROM kept") == marks[at - (not inclusive)].rows


def test_an_id_as_pg_current_xact_id_returns_it(around: tuple[Scene, list[Mark]]) -> None:
    stage, marks = around
    target = parse_target(xid=str(marks[-2].xid), now=marks[-2].at)
    assert marks[-2].xid > _LIMIT
    with stage.restored(target) as (_, conninfo):
        assert value(conninfo, "SELECT count(*) FROM kept") == marks[-2].rows
