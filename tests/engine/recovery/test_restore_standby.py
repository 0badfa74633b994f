"""Backups of a standby, and beside one: where they are consistent decides what can be reached, and on which timeline.

No record says where a standby's backup ends; a primary's goes on while a standby is promoted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backup import rsync
from engine.config import load
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name, segment_of
from engine.recovery.reachable import reachable_windows
from engine.recovery.target import EndOfArchive, Immediate, LsnTarget
from engine.wal import findings
from engine.wal.ingest import ingest
from tests.engine.recovery.scene import CLIENT, SEGMENT, Scene, value
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.waiting import until


@contextlib.contextmanager
def standby_of(primary: Cluster, root: Path, **settings: str) -> Iterator[Cluster]:
    (root / "standby").mkdir()
    standby = Cluster(primary.install, root / "standby", free_port())
    primary.install.run("pg_basebackup", "-d", primary.conninfo, "-D", str(standby.data), "-R", "-c", "fast")
    standby.configure(port=str(standby.port), unix_socket_directories=str(standby.root), **settings)
    standby.start()
    try:
        yield standby
    finally:
        standby.stop("immediate")


def end_segment(primary: Cluster, standby: Cluster) -> None:
    """Have the standby restart from the end of a segment: that is the least point to recover its files to."""
    primary.sql("CHECKPOINT")
    primary.sql("INSERT INTO kept VALUES (1)")
    primary.sql("SELECT pg_switch_wal()")
    here = primary.value("SELECT pg_current_wal_lsn()")
    until(lambda: standby.value(f"SELECT pg_last_wal_replay_lsn() >= '{here}'"), "the standby has replayed it")
    standby.sql("CHECKPOINT")


def test_the_end_of_the_backup_is_noticed_at_the_record_behind_it(postgres: Install, tmp_path: Path) -> None:
    with scene_of_standby(postgres, tmp_path) as (primary, standby, stage):
        end_segment(primary, standby)
        info = rsync.take(stage.server, report=Silent())
        assert info.end_xlog is not None and info.end_xlog % SEGMENT == 0
        plan = stage.plan(Immediate())
        assert plan.refused and "at the record behind that" in plan.refused.why
        assert stage.stopped(Immediate()) == "recovery ended before configured recovery target was reached"
        end_segment(primary, standby)
        following = stage.server.layout.wal(segment_name(1, segment_of(info.end_xlog, SEGMENT), SEGMENT))
        until(lambda: taken_in(stage, following), "the next segment is archived")
        with stage.restored(Immediate()) as (result, conninfo):
            assert result["verdict"] == "paused", result
            assert value(conninfo, "SELECT count(*) FROM kept") == 1


def test_a_target_between_the_least_point_and_the_end_of_a_standbys_backup(
    postgres: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files need WAL to the minRecoveryPoint in its pg_control; PostgreSQL stops at anything behind that."""
    ends: list[Lsn] = []
    with scene_of_standby(postgres, tmp_path) as (primary, standby, stage):
        end_segment(primary, standby)

        def go_on(name: str) -> None:
            if name == "backup.copied":
                for _ in range(3):
                    primary.sql("INSERT INTO kept VALUES (1)")
                    ends.append(Lsn.parse(primary.value("SELECT pg_current_wal_insert_lsn()")))
                end_segment(primary, standby)

        monkeypatch.setattr(rsync, "step", go_on)
        info = rsync.take(stage.server, report=Silent())
        end_segment(primary, standby)
        assert info.end_xlog is not None and info.end_xlog > ends[-1]
        following = stage.server.layout.wal(segment_name(1, segment_of(info.end_xlog, SEGMENT), SEGMENT))
        until(lambda: taken_in(stage, following), "the next segment is archived")
        [found], _ = reachable_windows(stage.server)
        assert found.from_lsn < ends[0] < info.end_xlog
        for least in (-48, -40, -1, 0, 1):
            for inclusive in (True, False):
                target = LsnTarget(Lsn(found.from_lsn + least), inclusive)
                assert stage.plan(target).reachable == (stage.stopped(target) == "paused"), target
        for count, end in enumerate(ends):
            with stage.restored(LsnTarget(end, inclusive=False)) as (result, conninfo):
                assert result["verdict"] == "paused", result
                assert value(conninfo, "SELECT count(*) FROM kept") == count + 2


def test_a_timeline_that_left_before_the_backup_ended_is_not_followed_from_it(
    postgres: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the backup's end is on the timeline that it was taken on, and the new one has none."""
    toml = tmp_path / "cellarman.toml"
    archive = {"archive_mode": "on", "archive_command": f"{CLIENT} push %p --server main --config {toml}"}
    with (
        running(postgres, tmp_path / "pg", ["--wal-segsize=1"], archive_mode="on", archive_command="true") as primary,
        standby_of(primary, tmp_path, **archive) as standby,
    ):
        stage = scene_in(tmp_path, primary, standby.install)
        primary.sql(f"ALTER SYSTEM SET archive_command = '{archive['archive_command']}'")
        primary.sql("SELECT pg_reload_conf()")
        primary.sql("CREATE TABLE kept (i int)")

        def promote(name: str) -> None:
            if name == "backup.copied":
                end_segment(primary, standby)
                standby.sql("SELECT pg_promote()")
                primary.sql("INSERT INTO kept VALUES (2)")

        monkeypatch.setattr(rsync, "step", promote)
        info = rsync.take(stage.server, report=Silent())
        primary.sql("INSERT INTO kept VALUES (3)")
        stage.archive_all()
        standby.sql("CREATE TABLE other AS SELECT generate_series(1, 9999)")
        name = standby.value("SELECT pg_walfile_name(pg_switch_wal())")
        until(lambda: taken_in(stage, stage.server.layout.wal(name)), "what the new primary wrote is archived")
        plan = stage.plan()
        assert plan.refused and "timeline 2 left timeline 1" in plan.refused.why, plan
        assert stage.plan(Immediate()).refused and not stage.plan(timeline="2").reachable
        assert {window.timeline for window in reachable_windows(stage.server)[0]} == {1}
        found = findings.report(stage.server, ask_server=False).findings
        assert [f.affected_backups for f in found if f.kind == "backup_off_branch"] == [(info.id,)]
        assert stage.stopped(EndOfArchive(), recovery_target_timeline="2") == "WAL ends before end of online backup"
        with stage.restored(timeline="current") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == 3


@contextlib.contextmanager
def scene_of_standby(postgres: Install, root: Path) -> Iterator[tuple[Cluster, Cluster, Scene]]:
    """Run a primary with a table `kept`, and a standby of it that archives, of which backups are taken."""
    archive = {
        "archive_mode": "always",
        "archive_command": f"{CLIENT} push %p --server main --config {root / 'cellarman.toml'}",
    }
    with (
        running(postgres, root / "pg", ["--wal-segsize=1"]) as primary,
        standby_of(primary, root, **archive) as standby,
    ):
        primary.sql("CREATE TABLE kept (i int)")
        yield primary, standby, scene_in(root, standby, postgres)


def scene_in(root: Path, server: Cluster, postgres: Install) -> Scene:
    """Return the scene of a server that is backed up by copying."""
    toml = root / "cellarman.toml"
    toml.write_text(
        f"[cellarman]\nbarman_home = '{root}/barman'\nstate_directory = '{root}/state'\n[servers.main]\n"
        f"conninfo = '{server.conninfo}'\nbackup_method = 'local-rsync'\narchiver = true\n"
        f"path_prefix = '{postgres.bindir}'\nimmediate_checkpoint = true\n"
    )
    stage = Scene(root, server, load(str(toml)))
    os.makedirs(stage.server.layout.incoming)
    os.makedirs(stage.server.layout.wals)
    return stage


def taken_in(stage: Scene, path: str) -> bool:
    ingest(stage.server)
    return os.path.exists(path)
