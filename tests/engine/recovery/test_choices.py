"""Moments that are offered, what lies around them, and plans in files, on a real server's history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from engine.errors import CellarmanError, NotFound, UsageError
from engine.postgres.segment import segment_before, segment_name
from engine.recovery import choices, planfile, suggest
from engine.recovery.difference import differences
from engine.recovery.nearby import nearby
from engine.recovery.target import LsnTarget, NameTarget, TimeTarget, XidTarget
from tests.engine.recovery.scene import SEGMENT, Scene, scene, value
from tests.support.cluster import Install
from tests.support.waiting import until

CELLARMAN = os.path.join(os.path.dirname(sys.executable), "cellarman")


@pytest.fixture(scope="module")
def stage(postgres: Install) -> Iterator[Scene]:
    with scene(postgres) as stage:
        stage.insert()
        stage.cluster.sql("CREATE TABLE early (i int)")
        stage.cluster.sql("DROP TABLE early")
        stage.backup()
        stage.insert()
        stage.cluster.sql("SELECT pg_create_restore_point('twice')")
        stage.insert()
        stage.cluster.sql("SELECT pg_create_restore_point('twice')")
        stage.cluster.sql("SELECT pg_create_restore_point('once')")
        stage.insert()
        stage.cluster.sql("DROP TABLE kept")
        stage.cluster.sql("CREATE TABLE kept (i int)")
        stage.cluster.sql("CREATE TEMPORARY TABLE passing (i int)")
        gone = "SELECT count(*) = 0 FROM pg_class WHERE relname = 'passing'"
        until(lambda: stage.cluster.value(gone), what="the drop after the session's end")
        stage.insert()
        stage.archive_all()
        choices.catch_up(stage.server)
        yield stage


def test_drops_and_restore_points_after_the_backup_are_offered_newest_first(stage: Scene) -> None:
    found = choices.ready(stage.server)
    assert [each.kind for each in found if each.kind != "backup"] == [
        "end",
        "drop",
        "restore_point",
        "restore_point",
        "restore_point",
    ]
    names = [each.name for each in found if each.kind == "restore_point"]
    assert names == ["once", "twice", "twice"]
    assert len([each for each in found if each.kind == "backup"]) == 1
    targets = {each.name: each.target for each in found if each.kind == "restore_point"}
    assert targets["once"] == NameTarget("once")
    assert isinstance(targets["twice"], LsnTarget), "the name would stop at the first one"


def test_before_the_drop_means_every_row_and_the_table(stage: Scene) -> None:
    drop = next(each for each in choices.ready(stage.server) if each.kind == "drop")
    plan = stage.plan(drop.target)
    assert plan.reachable and plan.kept is not None and plan.dropped is not None
    assert plan.kept.xid == stage.marks[3].xid and plan.dropped.drops
    with stage.restored(drop.target) as (result, conninfo):
        assert result["verdict"] == "paused"
        assert value(conninfo, "SELECT count(*) FROM kept") == stage.marks[3].rows


def test_what_lies_around_a_plan_is_split_where_it_stops(stage: Scene) -> None:
    drop = next(each for each in choices.ready(stage.server) if each.kind == "drop")
    found = nearby(stage.server, stage.plan(drop.target))
    assert found.marks[found.split].drops and found.marks[found.split].xid == drop.xid
    assert found.marks[found.split - 1].xid == stage.marks[3].xid
    few = nearby(stage.server, stage.plan(drop.target), around=2)
    assert [mark.xid for mark in few.marks[: few.split]] == [m.xid for m in found.marks[found.split - 2 : found.split]]
    assert len(few.marks) <= 4
    everything = nearby(stage.server, stage.plan())
    assert everything.split == len(everything.marks) and everything.marks[-1].xid == stage.marks[-1].xid


def test_around_a_moment_that_cannot_be_reached_there_is_something_too(stage: Scene) -> None:
    plan = stage.plan(TimeTarget(datetime.now(timezone.utc) + timedelta(days=1)))
    assert not plan.reachable
    assert nearby(stage.server, plan).marks
    early = stage.plan(TimeTarget(datetime(2001, 1, 1, tzinfo=timezone.utc)))
    assert not early.reachable and early.after is not None
    assert early.after.backup and stage.plan(early.after.target, backup=early.after.backup).reachable
    assert nearby(stage.server, early).split == 0


def test_a_server_without_a_backup_offers_nothing(stage: Scene) -> None:
    elsewhere = replace(stage.server, barman_home=str(stage.root / "nothing"))
    assert choices.ready(elsewhere) == []
    assert nearby(elsewhere, stage.plan()).marks == ()


def test_a_plan_survives_its_file(stage: Scene) -> None:
    odd = str(stage.root / 'a "quoted" \\ näme\x7f')
    plan = stage.plan(XidTarget(stage.marks[2].xid, inclusive=False), destination=odd, start=True, port=5999)
    now = datetime.now(timezone.utc)
    for name in ("plan.toml", "plan.json"):
        path = planfile.save(str(stage.root / name), plan, now=now, by="ana")
        saved = planfile.load(path, config_file=plan.order.config_file)
        assert saved.order == plan.order
        assert plan.info is not None and saved.planned == {"backup": plan.info.id, "timeline": 1}
        with pytest.raises(UsageError, match="there already"):
            planfile.save(path, plan, now=now)
    with pytest.raises(CellarmanError, match="not saved"):
        planfile.save(str(stage.root / "no" / "such" / "place.toml"), plan, now=now)


@pytest.mark.parametrize(
    "change",
    [
        {"cellarman_plan": 2},
        {"destination": "relative"},
        {"action": "explode"},
        {"port": 0},
        {"start": "yes"},
        {"target": {"kind": "time", "value": "2026-11-22 13:40:00"}},
        {"target": {"kind": "wish"}},
        {"tablespaces": {"a": "relative"}},
        {"target": None},
    ],
)
def test_what_is_no_plan_is_refused(stage: Scene, change: dict[str, object]) -> None:
    path = stage.root / "wrong.json"
    path.unlink(missing_ok=True)
    planfile.save(str(path), stage.plan(), now=datetime.now(timezone.utc))
    document = {key: value for key, value in {**json.loads(path.read_text()), **change}.items() if value is not None}
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError):
        planfile.load(str(path))


def test_a_file_that_is_none(stage: Scene) -> None:
    with pytest.raises(NotFound):
        planfile.load(str(stage.root / "none.toml"))
    (stage.root / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError):
        planfile.load(str(stage.root / "binary"))


def run(stage: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    command = [CELLARMAN, "--config", str(stage.root / "cellarman.toml"), "restore", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=stage.root)


def test_a_saved_plan_is_run_by_the_command_line(stage: Scene) -> None:
    drop = next(each for each in choices.ready(stage.server) if each.kind == "drop")
    plan = stage.plan(drop.target, destination=str(stage.root / "from-file"), start=True)
    path = planfile.save(str(stage.root / "run.toml"), plan, now=datetime.now(timezone.utc))
    shown = run(stage, "--plan-file", path, "--plan", "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)["backup"] == plan.info.id  # type: ignore[union-attr]
    assert run(stage, "--plan-file", path, "--to-immediate").returncode == 2
    assert run(stage, "main", "--plan-file", path).returncode == 2
    assert run(stage, "--plan-file", path, "--yes", "/elsewhere").returncode == 2
    assert run(stage, "main", "auto").returncode == 2
    other = (stage.root / "run.toml").read_text().replace(f'backup = "{plan.info.id}"', 'backup = "20200101T000000"')  # type: ignore[union-attr]
    (stage.root / "other.toml").write_text(other)
    refused = run(stage, "--plan-file", str(stage.root / "other.toml"))
    assert refused.returncode == 3 and "has changed" in refused.stderr
    try:
        done = run(stage, "--plan-file", path, "--yes", plan.order.destination, "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])["result"]
        conninfo = f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres"
        assert value(conninfo, "SELECT count(*) FROM kept") == stage.marks[3].rows
    finally:
        stage.remove(plan.order.destination)


def test_what_changed_between_two_plans_is_said_and_what_does_not_matter_is_not(stage: Scene) -> None:
    before = stage.plan(XidTarget(stage.marks[2].xid))
    assert differences(before, stage.plan(XidTarget(stage.marks[2].xid))) == []
    assert any("first that does not" in line for line in differences(before, stage.plan(XidTarget(stage.marks[1].xid))))
    end = stage.plan()
    stage.insert()
    stage.archive_all()
    assert differences(end, stage.plan()) == []
    (stage.root / "restored").mkdir()
    (stage.root / "restored" / "file").write_text("in the way")
    try:
        assert any("refused now" in line for line in differences(end, stage.plan()))
    finally:
        (stage.root / "restored" / "file").unlink()
        (stage.root / "restored").rmdir()


def test_a_directory_is_suggested_that_a_restore_accepts(stage: Scene) -> None:
    info = stage.plan().info
    path = suggest.directory(stage.server, info)
    assert path and not os.path.exists(path)
    assert stage.plan(destination=path).refused is None


def test_what_lies_behind_a_gap_is_offered_as_out_of_reach_as_the_plan_says(postgres: Install) -> None:
    with scene(postgres) as stage:
        stage.backup()
        for name in ("before", "within", "behind"):
            stage.cluster.sql(f"SELECT pg_create_restore_point('{name}')")
            stage.cluster.sql("SELECT pg_switch_wal()")
            stage.insert()
        stage.archive_all()
        choices.catch_up(stage.server)
        within = next(each for each in choices.ready(stage.server) if each.name == "within")
        assert within.lsn is not None and within.reachable
        os.unlink(stage.server.layout.wal(segment_name(1, segment_before(int(within.lsn), SEGMENT), SEGMENT)))
        found = {each.name: each for each in choices.ready(stage.server) if each.kind == "restore_point"}
        assert {name: each.reachable for name, each in found.items() if name != "within"} == {
            "before": True,
            "behind": False,
        }
        assert all(stage.plan(each.target).reachable == each.reachable for each in choices.ready(stage.server))
        assert not choices.ready(stage.server)[0].reachable
