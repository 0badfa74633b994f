"""A failover with an old primary that ran on: which timeline wins, which backup lies off its branch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2
import pytest

from engine.backup import streaming
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.postgres.segment import parse_segment, segment_name, segment_of
from engine.postgres.timeline import parse_history
from engine.recovery.plan import Order
from engine.recovery.reachable import reachable_windows
from engine.recovery.restore import execute
from engine.recovery.settings import render, setting_of
from engine.recovery.target import EndOfArchive, Immediate, NameTarget, TimeTarget, XidTarget
from engine.repository.backupinfo import BackupInfo
from engine.wal import codec
from engine.wal.fetch import ABSENT, REFUSED, get
from engine.wal.findings import report
from engine.wal.ingest import ingest
from tests.engine.recovery.scene import CLIENT, SEGMENT, Mark, Scene, scene, value
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


@pytest.fixture
def wals(failover: Failover) -> Iterator[Path]:
    """The archive, to be spoiled: it is whole again afterwards."""
    place, whole = Path(failover.scene.server.layout.wals), failover.scene.root / "whole"
    shutil.copytree(place, whole)
    yield place
    shutil.rmtree(place)
    whole.rename(place)


def by_hand(stage: Scene, order: Order, name: str) -> Cluster:
    """Return what was restored as a server that is started by hand."""
    tried = Cluster(stage.cluster.install, stage.root / name, free_port())
    tried.root.mkdir()
    tried.data.symlink_to(order.destination)
    tried.configure(port=str(tried.port), unix_socket_directories=str(tried.root), hot_standby="off")
    return tried


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


def test_timeline_1_cut_short_where_timeline_2_went_on_from_it(failover: Failover, wals: Path) -> None:
    """Nothing follows the last segment on timeline 1, and yet it is not the end: timeline 2 left it later."""
    layout = failover.scene.server.layout
    last = segment_name(1, segment_of(Lsn.parse(failover.shared.lsn), SEGMENT), SEGMENT)
    path = Path(layout.wal(last))
    for later in wals.glob("00000001*/00000001*"):
        if len(later.name) == 24 and later.name > last:
            later.unlink()
    path.write_bytes(path.read_bytes()[:8192] + bytes(SEGMENT - 8192))
    plan = failover.scene.plan(timeline="1", backup=failover.before.id)
    assert plan.refused and last in plan.refused.why
    found = report(failover.scene.server, ask_server=False).findings
    assert any(finding.first == last and finding.kind == "invalid" for finding in found), found
    assert get(layout, last, str(failover.scene.root / "delivered")) == REFUSED


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
    tried = by_hand(stage, order, "promoter")
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


def test_a_lost_history_of_a_timeline_whose_wal_is_damaged_too(failover: Failover, wals: Path) -> None:
    """That there is anything of it shows that recovery would call itself by its number."""
    stage, lost = failover.scene, "00000002.history"
    order = stage.order(destination=str(stage.root / "opening"), timeline="1", backup=failover.before.id)
    execute(order.to_arguments(), stage.server, Silent())
    (wals / lost).unlink()
    for path in wals.glob("00000002*/????????????????????????"):
        damaged = bytearray(codec.read_segment(str(path)))
        damaged[100] ^= 4
        path.write_bytes(damaged)
    tried = by_hand(stage, order, "opener")
    try:
        plan = stage.plan(timeline="1", backup=failover.before.id)
        assert plan.refused and f"{lost} is missing" in plan.refused.why, plan
        tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
        assert concluded(tried).startswith(f'could not restore file "{lost}"')
    finally:
        stage.remove(order.destination)


def test_a_history_is_all_that_tells_of_lost_wal(failover: Failover, wals: Path) -> None:
    """All of timeline 2 is gone, and the last segment before it: its history still says that there was more."""
    stage = failover.scene
    order = stage.order(destination=str(stage.root / "losing"), timeline="2", backup=failover.before.id)
    execute(order.to_arguments(), stage.server, Silent())
    lost = segment_name(1, segment_of(Lsn.parse(failover.shared.lsn), SEGMENT), SEGMENT)
    for path in [*wals.glob("00000002*/*"), *wals.glob("00000001*/*")]:
        if path.name >= lost:
            path.unlink()
    tried = by_hand(stage, order, "loser")
    try:
        plan = stage.plan(timeline="2", backup=failover.before.id)
        assert plan.refused and f"{lost} is missing" in plan.refused.why, plan
        holes = [each for each in report(stage.server, ask_server=False).findings if each.kind == "hole"]
        assert lost in {hole.first for hole in holes}
        tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
        assert concluded(tried).startswith(f'could not restore file "{lost}"')
    finally:
        stage.remove(order.destination)


def test_the_first_segment_of_a_branch_in_place_of_its_parents(failover: Failover, wals: Path) -> None:
    """Its first page is of the timeline before, and may be all that it has: PostgreSQL panics at its first record."""
    stage = failover.scene
    first = min(wals.glob("00000002*/????????????????????????"))
    data = codec.read_segment(str(first))
    parents = Path(stage.server.layout.wal("00000001" + first.name[8:]))
    for later in wals.glob("00000001*/????????????????????????"):
        if later.name > parents.name:
            later.unlink()
    shutil.rmtree(first.parent)
    parents.write_bytes(data[:8192] + bytes(SEGMENT - 8192))
    for target in (EndOfArchive(), XidTarget(failover.new.xid)):
        plan = stage.plan(target, timeline="1", backup=failover.before.id)
        assert plan.refused and "is of timeline 2 instead of 1" in plan.refused.why, plan
    assert get(stage.server.layout, parents.name, str(stage.root / "delivered")) == REFUSED


@pytest.mark.parametrize("kind", ["dead branch", "cut short", "from its first page on"])
def test_the_first_segment_of_a_branch_is_what_its_history_says(failover: Failover, wals: Path, kind: str) -> None:
    """It is all that is left of timeline 2. PostgreSQL would replay the branch that was left, or half a segment."""
    stage = failover.scene
    layout = stage.server.layout
    order = stage.order(destination=str(stage.root / "misled"), timeline="2", backup=failover.before.id)
    execute(order.to_arguments(), stage.server, Silent())
    first, *later = sorted(wals.glob("00000002*/????????????????????????"))
    for path in later:
        path.unlink()
    data = bytearray(codec.read_segment(str(first)))
    if kind == "dead branch":
        shutil.copy(layout.wal("00000001" + first.name[8:]), first)
    elif kind == "cut short":
        first.write_bytes(data[:40] + bytes(SEGMENT - 40))
    else:
        for page in range(0, SEGMENT, 8192):
            data[page + 4 : page + 8] = (2).to_bytes(4, "little")
        first.write_bytes(data)
    tried = by_hand(stage, order, "follower")
    try:
        for _ in range(2):  # as it was indexed before it was changed, and anew
            plan = stage.plan(timeline="2", backup=failover.before.id)
            assert plan.refused and first.name in plan.refused.why, plan
            said = report(stage.server, ask_server=False).findings
            assert any(each.first == first.name for each in said), "\n".join(
                f"{e.kind} {e.first} {e.last} {e.why}" for e in said
            )
            shutil.rmtree(layout.own)
        tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
        assert concluded(tried).startswith(f'could not restore file "{first.name}"')
    finally:
        stage.remove(order.destination)
        shutil.rmtree(tried.root)


def test_a_bad_history_of_a_timeline_that_is_passed(failover: Failover) -> None:
    """PostgreSQL reads the history of the timeline that it follows, and no other: a bad one, like a lost one, does not
    stop it. Windows go on to that timeline too."""
    stage = failover.scene
    layout, bad = stage.server.layout, Path(stage.server.layout.wals, "00000002.history")
    good, third = bad.read_bytes(), Path(layout.wals, "00000003.history")
    with stage.restored(timeline="2", action="promote", destination=str(stage.root / "third")):
        shutil.copy(stage.root / "third/pg_wal" / third.name, third)
    try:
        for content in (b"", b"garbage\n", good[: len(good) // 3]):
            bad.write_bytes(content)
            for timeline in ("3", "latest"):
                plan = stage.plan(timeline=timeline)
                assert plan.reachable and plan.timeline == 3, plan.refused
                assert any(bad.name in warning and "does not need" in warning for warning in plan.warnings)
            with stage.restored(timeline="3") as (_, conninfo):
                assert value(conninfo, "SELECT count(*) FROM kept") == failover.new.rows
        found, _ = reachable_windows(stage.server)
        assert "end_of_archive" in {window.bounded_by for window in found if window.timeline == 3}
        bad.unlink()
        with stage.restored(timeline="3") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == failover.new.rows
    finally:
        bad.write_bytes(good)
        third.unlink()


def test_what_a_changed_history_makes_of_segments_is_noticed_while_the_nearest_moment_is_looked_for(
    failover: Failover, wals: Path
) -> None:
    """Timeline 2 is passed, and its history says now that it began half a segment earlier."""
    stage = failover.scene
    history, third = wals / "00000002.history", wals / "00000003.history"
    last = max(wals.glob("00000002*/????????????????????????"))
    with stage.restored(timeline="2", action="promote", destination=str(stage.root / "third")):
        shutil.copy(stage.root / "third/pg_wal" / third.name, third)
    reachable_windows(stage.server)
    (began,) = (switch.lsn for switch in parse_history(2, codec.read_segment(str(history)).decode()))
    history.write_text(f"1\t{Lsn(began - SEGMENT // 2)}\tno recovery target specified\n")
    own = Path(stage.server.layout.wal(segment_name(3, parse_segment(last.name, SEGMENT)[1] + 1, SEGMENT)))
    own.parent.mkdir()
    own.write_bytes(b"")
    plan = stage.plan(timeline="3", backup=failover.before.id)
    assert plan.refused and "0000000200000000" in plan.refused.why, plan


def test_a_restore_point_whose_name_has_what_others_take_for_line_ends(postgres: Install) -> None:
    """PostgreSQL puts the name into the history of the timeline that begins there."""
    name = "a\u2028b\x0bc\x85d"
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        mark = stage.insert()
        stage.cluster.sql("SELECT pg_create_restore_point('" + name + "')")
        stage.insert()
        stage.archive_all()
        with stage.restored(NameTarget(name), action="promote") as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == mark.rows
            history = str(stage.root / "restored/pg_wal/00000002.history")
            subprocess.run(
                [CLIENT, "push", history, "--server", "main", "--config", stage.order().config_file], check=True
            )
        ingest(stage.server)
        assert not [each for each in report(stage.server, ask_server=False).findings if each.timeline == 2]
        with stage.restored(timeline="1") as (_, conninfo):  # before it opens it asks for that history
            assert value(conninfo, "SELECT count(*) FROM kept") == stage.marks[-1].rows


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
