"""A failover with an old primary that ran on: which timeline wins, which backup lies off its branch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2
import pytest

from engine.backup import streaming
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name, segment_of
from engine.recovery.reachable import reachable_windows
from engine.recovery.restore import execute
from engine.recovery.settings import render, setting_of
from engine.recovery.target import Immediate, TimeTarget, XidTarget
from engine.repository.backupinfo import BackupInfo
from engine.wal import codec
from engine.wal.fetch import ABSENT, REFUSED, get
from engine.wal.findings import report
from tests.engine.recovery.scene import SEGMENT, Mark, Scene, scene, value
from tests.engine.wal.judgement.test_real_recovery import concluded
from tests.support.cluster import Cluster, Install, free_port
from tests.support.waiting import until
from tests.support.wal import ended_sooner


@dataclass
class Failover:
    """A backup, then a fork: timeline 2 is the new primary's; the old one ran on timeline 1 and was backed up there."""

    scene: Scene
    before: BackupInfo
    shared: Mark
    old_backup: BackupInfo
    old: Mark
    new: Mark


def promote(cluster: Cluster) -> None:
    """Start a stopped server so that it recovers to the end of its own WAL and opens on a new timeline."""
    cluster.configure(restore_command="false")
    (cluster.data / "recovery.signal").touch()
    cluster.start()
    until(lambda: not cluster.value("SELECT pg_is_in_recovery()"), "the promotion")


@pytest.fixture(scope="module")
def failover(postgres: Install) -> Iterator[Failover]:
    with scene(postgres) as stage:
        stage.insert()
        before = stage.backup()
        shared = stage.insert()
        stage.archive_all()
        new_primary = stage.cluster
        new_primary.stop()
        old_primary = Cluster(postgres, stage.root / "old", free_port())
        shutil.copytree(new_primary.data, old_primary.data)
        os.chmod(old_primary.data, 0o700)
        old_primary.configure(port=str(old_primary.port), unix_socket_directories=str(old_primary.root))
        try:
            promote(new_primary)
            old_primary.start()
            stage.cluster = old_primary
            stage.insert(7)
            server = replace(stage.server, conninfo=old_primary.conninfo, streaming_conninfo=old_primary.conninfo)
            old_backup = streaming.take(server, report=Silent())
            old = stage.insert(7)
            stage.archive_all()
        finally:
            old_primary.stop()
        stage.cluster = new_primary
        new = stage.insert(50)
        stage.archive_all()
        yield Failover(stage, before, shared, old_backup, old, new)


def test_latest_follows_the_new_primary_from_the_backup_before_the_fork(failover: Failover) -> None:
    plan = failover.scene.plan()
    assert plan.refused is None
    assert (plan.info and plan.info.id, plan.timeline) == (failover.before.id, 2)
    assert plan.settings["recovery_target_timeline"] == "2"
    with failover.scene.restored() as (_, conninfo):
        assert value(conninfo, "SELECT count(*) FROM kept") == failover.new.rows


def test_the_old_primarys_backup_goes_with_current_only(failover: Failover) -> None:
    refused = failover.scene.plan(backup=failover.old_backup.id)
    assert refused.refused and "left timeline 1" in refused.refused.why
    assert "current" in refused.refused.now("")
    with failover.scene.restored(backup=failover.old_backup.id, timeline="current") as (_, conninfo):
        assert value(conninfo, "SELECT count(*) FROM kept") == failover.old.rows


def test_timeline_1_by_number(failover: Failover) -> None:
    plan = failover.scene.plan(TimeTarget(failover.shared.at), timeline="1", backup=failover.before.id)
    assert plan.reachable and plan.timeline == 1
    assert any("timeline 2 left timeline 1" in warning for warning in plan.warnings)


def test_timeline_1_cut_short_where_timeline_2_went_on_from_it(failover: Failover) -> None:
    """Nothing follows the last segment on timeline 1, and yet it is not the end: timeline 2 left it later."""
    layout = failover.scene.server.layout
    wals = Path(layout.wals)
    whole = failover.scene.root / "whole"
    shutil.copytree(wals, whole)
    last = segment_name(1, segment_of(Lsn.parse(failover.shared.lsn), SEGMENT), SEGMENT)
    path = Path(layout.wal(last))
    try:
        for later in wals.glob("00000001*/00000001*"):
            if len(later.name) == 24 and later.name > last:
                later.unlink()
        path.write_bytes(path.read_bytes()[:8192] + bytes(SEGMENT - 8192))
        plan = failover.scene.plan(timeline="1", backup=failover.before.id)
        assert plan.refused and last in plan.refused.why
        found = report(failover.scene.server, ask_server=False).findings
        assert any(finding.first == last and finding.kind == "invalid" for finding in found), found
        assert get(layout, last, str(failover.scene.root / "delivered")) == REFUSED
    finally:
        shutil.rmtree(wals)
        whole.rename(wals)


def test_a_bad_history_that_is_asked_for_by_nobody_before_the_target(failover: Failover) -> None:
    stage, target = failover.scene, TimeTarget(failover.shared.at)
    bad = Path(stage.server.layout.wals, "00000003.history")
    bad.write_text("not a history")
    try:
        assert stage.plan(timeline="2").refused
        assert stage.plan(target, timeline="latest").refused
        promoting = stage.plan(target, timeline="2", action="promote")
        assert promoting.refused and bad.name in promoting.refused.why
        with stage.restored(target, timeline="2") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == failover.shared.rows
        found, _ = reachable_windows(stage.server)
        assert {(w.bounded_by, w.missing) for w in found if w.timeline == 2} == {("gap", bad.name)}
    finally:
        bad.unlink()


def test_a_lost_history_of_a_timeline_that_has_wal(failover: Failover, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL by itself would follow timeline 1, and open as timeline 2."""
    stage, lost = failover.scene, "00000002.history"
    path = stage.server.layout.wal(lost)
    place = stage.root / "recovering"
    (place / "pg_wal").mkdir(parents=True)
    (place / "recovery.signal").touch()
    monkeypatch.chdir(place)
    os.rename(path, path + ".aside")
    try:
        for plan in (stage.plan(), stage.plan(timeline="current"), stage.plan(TimeTarget(failover.shared.at))):
            assert plan.refused and lost in plan.refused.why, plan
        paused = stage.plan(TimeTarget(failover.shared.at), timeline="current")
        assert paused.reachable and any(lost in warning for warning in paused.warnings)
        early = stage.plan(Immediate(), timeline="current", backup=failover.before.id)
        assert early.reachable and not any("branch that was left" in warning for warning in early.warnings)
        dead = stage.plan(TimeTarget(failover.old.at), timeline="current", backup=failover.old_backup.id)
        assert dead.refused  # no commit after it proves it
        dead = stage.plan(XidTarget(failover.old.xid), timeline="current")
        assert dead.reachable and any("may be a branch that was left" in warning for warning in dead.warnings)
        (place / "backup_label").write_text("START TIMELINE: 1\n")
        assert get(stage.server.layout, lost, "pg_wal/RECOVERYHISTORY") == REFUSED
        assert get(stage.server.layout, "00000003.history", "pg_wal/RECOVERYHISTORY") == ABSENT
        (place / "backup_label").write_text("START TIMELINE: 2\n")
        assert get(stage.server.layout, lost, "pg_wal/RECOVERYHISTORY") == ABSENT
    finally:
        os.rename(path + ".aside", path)
        shutil.rmtree(place)


@pytest.mark.parametrize(("options", "goes_on"), [("", False), (" --on-hole=absent", True)])
def test_a_standby_does_not_follow_a_branch_whose_successors_history_was_lost(
    failover: Failover, options: str, goes_on: bool
) -> None:
    """Unless it streams: then PostgreSQL learns of the timeline from its primary."""
    stage, lost = failover.scene, "00000002.history"
    path = stage.server.layout.wal(lost)
    order = stage.order(XidTarget(failover.old.xid), destination=str(stage.root / "following"), timeline="current")
    execute(order.to_arguments(), stage.server, Silent())
    standby = Cluster(stage.cluster.install, stage.root / "follower", free_port())
    standby.root.mkdir()
    standby.data.symlink_to(order.destination)
    os.rename(standby.data / "recovery.signal", standby.data / "standby.signal")
    conf = standby.data / "postgresql.auto.conf"
    told = {"restore_command": setting(conf, "restore_command") + options, "recovery_target_timeline": "latest"}
    conf.write_text(conf.read_text() + render({**told, "recovery_target_xid": ""}))
    standby.configure(port=str(standby.port), unix_socket_directories=str(standby.root))
    os.rename(path, path + ".aside")
    try:
        standby.install.run("pg_ctl", "-D", str(standby.data), "-l", str(standby.root / "log"), "-W", "start")
        query = "SELECT count(*) FROM kept"
        if goes_on:
            until(lambda: _value(standby, query) == failover.old.rows, "it has replayed the old branch")
        else:
            until(lambda: "FATAL:  could not restore file" in standby.log, "it has ended")
            assert f"{lost} is missing from the archive" in standby.log
    finally:
        os.rename(path + ".aside", path)
        stage.remove(order.destination)
        shutil.rmtree(standby.root)


def _value(cluster: Cluster, query: str) -> object:
    """Return what a server answers, None while it does not take connections."""
    try:
        return cluster.value(query)
    except psycopg2.OperationalError:
        return None


def setting(conf: Path, name: str) -> str:
    found = [setting_of(line) for line in conf.read_text().splitlines()]
    return next(text for key, text in found if key == name)


def test_a_recovery_ends_on_no_timeline_that_has_wal(failover: Failover) -> None:
    """Also where a newer one has its history: only that the newer one is followed makes the lost one needless."""
    stage, lost = failover.scene, "00000002.history"
    layout = stage.server.layout
    third = Path(layout.wals, "00000003.history")
    order = stage.order(destination=str(stage.root / "promoting"), timeline="1", backup=failover.before.id)
    execute(order.to_arguments(), stage.server, Silent())
    tried = Cluster(stage.cluster.install, stage.root / "promoter", free_port())
    tried.root.mkdir()
    tried.data.symlink_to(order.destination)
    tried.configure(port=str(tried.port), unix_socket_directories=str(tried.root), hot_standby="off")
    third.write_text("1\t0/300000\tanother one\n")
    os.rename(layout.wal(lost), layout.wal(lost) + ".aside")
    try:
        plan = stage.plan(timeline="1", backup=failover.before.id)
        assert plan.refused and lost in plan.refused.why
        tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
        assert concluded(tried).startswith(f'could not restore file "{lost}"')
    finally:
        os.rename(layout.wal(lost) + ".aside", layout.wal(lost))
        third.unlink()
        stage.remove(order.destination)


def test_a_timeline_that_does_not_exist(failover: Failover) -> None:
    plan = failover.scene.plan(timeline="7")
    assert plan.refused and "00000007.history" in plan.refused.why


def test_windows_of_both_branches(failover: Failover) -> None:
    found, _ = reachable_windows(failover.scene.server)
    assert {(window.backup, window.timeline) for window in found} == {
        (failover.before.id, 2),
        (failover.before.id, 1),
        (failover.old_backup.id, 1),
    }


def test_a_missing_first_segment_of_the_branch_is_a_hazard(failover: Failover) -> None:
    """The parent's full copy is there: PostgreSQL would replay the dead branch, in silence."""
    layout = failover.scene.server.layout
    first = sorted(
        n
        for d in os.listdir(layout.wals)
        if d.startswith("00000002") and "." not in d
        for n in os.listdir(os.path.join(layout.wals, d))
        if len(n) == 24
    )[0]
    parent = layout.wal("00000001" + first[8:])
    assert os.path.exists(parent)
    os.rename(layout.wal(first), layout.wal(first) + ".aside")
    try:
        plan = failover.scene.plan()
        assert plan.refused and "older timeline" in plan.refused.why and plan.before
        found, _ = reachable_windows(failover.scene.server)
        assert {w.bounded_by for w in found if w.timeline == 2} == {"branch_hazard"}
    finally:
        os.rename(layout.wal(first) + ".aside", layout.wal(first))


def test_the_first_segment_of_a_branch_is_held_against_the_last_one_before_it(failover: Failover) -> None:
    stage = failover.scene
    layout = stage.server.layout
    before = segment_of(Lsn.parse(failover.shared.lsn), SEGMENT)
    path = Path(layout.wal(segment_name(1, before, SEGMENT)))
    first = segment_name(2, before + 1, SEGMENT)
    assert os.path.exists(layout.wal(first))
    good = path.read_bytes()
    path.write_bytes(ended_sooner(codec.read_segment(str(path))))
    try:
        for _ in range(2):  # as it was indexed after it was changed, and anew
            plan = stage.plan(timeline="2", backup=failover.before.id)
            assert plan.refused and first in plan.refused.why, plan.warnings
            shutil.rmtree(layout.own)
        assert get(layout, first, str(stage.root / "delivered")) == REFUSED
    finally:
        path.write_bytes(good)
