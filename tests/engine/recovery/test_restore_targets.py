"""Rows before a dropped table, got back on real servers: by time, LSN, xid, name, at once, and to the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg2
import pytest

from engine.postgres.lsn import Lsn
from engine.recovery.reachable import reachable_windows
from engine.recovery.target import Immediate, LsnTarget, NameTarget, TimeTarget, XidTarget
from tests.engine.recovery.scene import Mark, Scene, scene, value
from tests.support.cluster import Install


@dataclass
class History:
    """A backup with 100 rows, then three times 100 more, then the table is dropped."""

    scene: Scene
    marks: list[Mark]
    end: str


@pytest.fixture(scope="module")
def history(each_postgres: Install) -> Iterator[History]:
    with scene(each_postgres) as stage:
        stage.insert()
        stage.backup()
        marks = [stage.insert(), stage.insert()]
        stage.cluster.sql("SELECT pg_create_restore_point('two hundred more')")
        marks.append(stage.insert())
        stage.cluster.sql("DROP TABLE kept")
        stage.cluster.sql("CREATE TABLE late (i int)")
        end = stage.cluster.value("SELECT pg_current_wal_insert_lsn()")
        stage.archive_all()
        yield History(stage, marks, end)


def test_time_before_the_drop_paused(history: History) -> None:
    plan = history.scene.plan(TimeTarget(history.marks[2].at))
    assert plan.reachable and plan.kept and plan.kept.xid == history.marks[2].xid
    assert plan.dropped and plan.dropped.xid != history.marks[2].xid
    with history.scene.restored(TimeTarget(history.marks[2].at)) as (result, conninfo):
        assert result["verdict"] == "paused", result
        assert value(conninfo, "SELECT count(*) FROM kept") == 400
        assert value(conninfo, "SELECT pg_is_in_recovery()") is True
        assert value(conninfo, "SHOW archive_mode") == "off"


def test_xid_promoted(history: History) -> None:
    with history.scene.restored(XidTarget(history.marks[1].xid), action="promote") as (result, conninfo):
        assert result["verdict"] == "open", result
        assert value(conninfo, "SELECT count(*) FROM kept") == 300
        assert value(conninfo, "SELECT pg_is_in_recovery()") is False


def test_xid_exclusive(history: History) -> None:
    with history.scene.restored(XidTarget(history.marks[1].xid, inclusive=False)) as (_, conninfo):
        assert value(conninfo, "SELECT count(*) FROM kept") == 200


def test_lsn(history: History) -> None:
    target = LsnTarget(Lsn.parse(history.marks[0].lsn), inclusive=False)
    with history.scene.restored(target, action="promote") as (result, conninfo):
        assert result["verdict"] == "open", result
        assert value(conninfo, "SELECT count(*) FROM kept") == 200


def test_lsn_inside_a_record(history: History) -> None:
    """PostgreSQL stops after the first record that begins behind it: here that is a commit, which stays."""
    commit = history.scene.plan(XidTarget(history.marks[1].xid)).kept
    assert commit is not None
    target = LsnTarget(Lsn(commit.lsn - 1))
    plan = history.scene.plan(target)
    assert plan.kept == commit and plan.dropped and plan.dropped.lsn > commit.lsn
    with history.scene.restored(target, action="promote") as (_, conninfo):
        assert value(conninfo, "SELECT count(*) FROM kept") == 300
    without = history.scene.plan(LsnTarget(Lsn(commit.lsn - 1), inclusive=False))
    assert without.kept and without.kept.lsn < commit.lsn and without.dropped == commit


def test_restore_point(history: History) -> None:
    with history.scene.restored(NameTarget("two hundred more")) as (result, conninfo):
        assert result["verdict"] == "paused", result
        assert "two hundred more" in result["stopped_at"], result
        assert value(conninfo, "SELECT count(*) FROM kept") == 300


def test_immediate_shut_down(history: History) -> None:
    with history.scene.restored(Immediate(), action="shutdown") as (result, _):
        assert result["verdict"] == "shutdown", result
        assert result["pid"] is None


def test_end_of_archive(history: History) -> None:
    with history.scene.restored() as (result, conninfo):
        assert result["verdict"] == "open", result
        assert value(conninfo, "SELECT count(*) FROM late") == 0
        with pytest.raises(psycopg2.errors.UndefinedTable):
            value(conninfo, "SELECT count(*) FROM kept")


def test_last_commit_is_no_time_target(history: History) -> None:
    window_end = history.scene.plan().kept
    assert window_end is not None
    refused = history.scene.plan(TimeTarget(window_end.at))
    assert not refused.reachable and refused.before and refused.before.at == window_end.at
    assert refused.refused and "--to-time" not in refused.before.command.words
    assert history.scene.plan(TimeTarget(window_end.at, inclusive=False)).reachable


def test_lsn_beyond_the_end(history: History) -> None:
    plan = history.scene.plan(LsnTarget(Lsn.parse(history.end) + (64 << 20)))
    assert not plan.reachable and plan.before and plan.before.lsn


def test_lsn_inside_the_backup(history: History) -> None:
    found = history.scene.plan(Immediate())
    assert found.info and found.info.begin_xlog
    plan = history.scene.plan(LsnTarget(Lsn(found.info.begin_xlog + 8)))
    assert not plan.reachable and plan.after and "--to-immediate" in plan.after.command.words


@pytest.mark.parametrize("inclusive", [True, False])
def test_an_lsn_around_the_record_that_ends_the_backup(history: History, inclusive: bool) -> None:
    """What the server says of the end is later: the record is what PostgreSQL goes by, and it may stop behind that."""
    stage = history.scene
    window = reachable_windows(stage.server)[0][-1]
    record = window.from_lsn - 40
    for lsn in (record - 200, record - 8, record, record + 1, window.from_lsn, window.from_lsn + 8):
        target = LsnTarget(Lsn(lsn), inclusive)
        assert stage.plan(target).reachable == (stage.stopped(target) == "paused"), target
