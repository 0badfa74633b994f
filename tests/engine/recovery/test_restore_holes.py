"""Missing, damaged and foreign WAL: refused beforehand with what can be reached; PostgreSQL itself stops with FATAL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

import pytest

from engine.errors import CellarmanError, Refused
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name
from engine.recovery import choices
from engine.recovery.candidates import Choice
from engine.recovery.plan import Plan
from engine.recovery.planner import make_plan
from engine.recovery.reachable import reachable_windows
from engine.recovery.restore import execute
from engine.recovery.target import Immediate, LsnTarget, TimeTarget, XidTarget
from engine.repository.backupinfo import BackupInfo
from engine.wal import condemned, findings, index
from engine.wal.judgement.values import Finding
from tests.engine.recovery.scene import SEGMENT, Mark, Scene, scene, value
from tests.support.cluster import Install


@dataclass
class Holed:
    """Two backups, each followed by marks in segments of their own; `moved` takes segments away and back."""

    scene: Scene
    first: BackupInfo
    early: list[Mark]
    second: BackupInfo
    late: list[Mark]

    def path(self, mark: Mark) -> str:
        number = Lsn.parse(mark.lsn) // SEGMENT
        return self.scene.server.layout.wal(segment_name(1, number, SEGMENT))

    def restored_rows(self, plan: Plan) -> int:
        assert plan.refused is None, plan.refused
        with self.scene.restored(plan.order.target, backup=plan.order.backup) as (_, conninfo):
            rows: int = value(conninfo, "SELECT count(*) FROM kept")
            return rows


@pytest.fixture(scope="module")
def holed(postgres: Install) -> Iterator[Holed]:
    with scene(postgres, compression="none") as stage:

        def marks() -> list[Mark]:
            found = []
            for _ in range(4):
                found.append(stage.insert())
                stage.archive_all()
            return found

        stage.insert()
        first = stage.backup()
        early = marks()
        second = stage.backup()
        late = marks()
        yield Holed(stage, first, early, second, late)


@pytest.fixture
def gone(holed: Holed) -> Iterator[Mark]:
    """The segment with the third early mark is missing."""
    path = holed.path(holed.early[2])
    aside = path + ".aside"
    os.rename(path, aside)
    yield holed.early[2]
    os.rename(aside, path)


def test_a_time_in_the_hole_has_neighbours(holed: Holed, gone: Mark) -> None:
    plan = holed.scene.plan(TimeTarget(holed.early[3].at))
    assert not plan.reachable and plan.before and plan.after and plan.refused
    assert holed.early[1].at >= (plan.before.at or gone.at) > holed.early[0].at
    assert plan.before.lsn is not None and "--to-lsn" in plan.before.command.words
    assert plan.after.at == holed.second.end_time and holed.second.id in plan.after.command.words
    assert "missing" in plan.refused.why
    look, _, last_resort = plan.refused.now("").partition("cellarman wal fetch-missing ")
    assert look and "cellarman backup " in last_resort
    rows = holed.restored_rows(holed.scene.plan(LsnTarget(plan.before.lsn)))
    assert rows == holed.early[1].rows


def test_beyond_the_hole_the_second_backup_serves(holed: Holed, gone: Mark) -> None:
    plan = holed.scene.plan(TimeTarget(holed.late[1].at))
    assert plan.reachable and plan.info and plan.info.id == holed.second.id
    assert holed.restored_rows(plan) == holed.late[1].rows


def test_the_first_backup_cannot_reach_the_end(holed: Holed, gone: Mark) -> None:
    plan = holed.scene.plan(backup=holed.first.id)
    assert not plan.reachable and plan.refused and plan.before
    with pytest.raises(Refused):
        execute(plan.order.to_arguments(), holed.scene.server, Silent())
    assert not os.path.exists(plan.order.destination)


def test_windows_name_the_gap(holed: Holed, gone: Mark) -> None:
    found, without = reachable_windows(holed.scene.server)
    assert not without
    by_backup = {window.backup: window for window in found}
    assert by_backup[holed.first.id].bounded_by == "gap"
    assert by_backup[holed.second.id].bounded_by == "end_of_archive"
    assert holed.early[0].at < by_backup[holed.first.id].to_time <= holed.early[1].at


def test_a_hole_that_comes_after_the_plan_is_fatal(holed: Holed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hole opens between plan and replay: PostgreSQL must fail, not promote without the rows behind it."""
    path = holed.path(holed.late[2])
    aside = path + ".aside"
    from engine.recovery import restore

    real = restore.start.start

    def late_hole(*args: object) -> object:
        os.rename(path, aside)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(restore.start, "start", late_hole)
    order = holed.scene.order(start=True)
    try:
        with pytest.raises(CellarmanError) as caught:
            execute(order.to_arguments(), holed.scene.server, Silent())
        assert "could not restore file" in caught.value.why
        assert not os.path.exists(os.path.join(order.destination, "postmaster.pid"))
    finally:
        os.rename(aside, path)
        holed.scene.remove(order.destination)


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "misplaced", "alien"])
def test_an_unusable_segment_is_a_hole(holed: Holed, damage: str) -> None:
    path = holed.path(holed.late[2])
    aside = path + ".aside"
    shutil.copy2(path, aside)
    try:
        with open(path, "r+b") as file:
            if damage == "truncated":
                file.truncate(SEGMENT // 2)
            elif damage == "zeroed":
                file.write(bytes(SEGMENT))
            elif damage == "misplaced":
                with open(holed.path(holed.late[1]), "rb") as other:
                    file.write(other.read())
            else:
                file.seek(24)
                file.write(b"\1" * 8)
        plan = holed.scene.plan(TimeTarget(holed.late[2].at))
        assert not plan.reachable and plan.refused and plan.before
        assert "not usable" in plan.refused.why
        assert holed.late[0].at < plan.before.at <= holed.late[1].at  # type: ignore[operator]
    finally:
        os.replace(aside, path)


def flip(path: str, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))


def in_the_commit(mark: Mark) -> int:
    return Lsn.parse(mark.lsn) % SEGMENT - 20


@pytest.mark.parametrize("known", ["indexed", "new", "reindexed", "listed", "hurried", "condemned"])
def test_a_flipped_byte_is_a_hole_beforehand(holed: Holed, known: str) -> None:
    """Whether the index knew the segment before, had never seen it, or the audit found it; and whoever looked first."""
    layout, path = holed.scene.server.layout, holed.path(holed.late[2])
    shutil.copy2(path, path + ".aside")
    before = os.stat(path)
    try:
        assert holed.scene.plan().kept is not None
        flip(path, in_the_commit(holed.late[2]))
        if known == "new":
            shutil.rmtree(layout.own)
        elif known == "reindexed":
            index.rebuild(layout)
        elif known == "listed":
            choices.catch_up(holed.scene.server)
        elif known == "hurried":
            os.unlink(layout.index)
            index.catch_up(layout, prove=0)
        elif known == "condemned":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            condemned.condemn(layout, os.path.basename(path), condemned.identity(os.stat(path)), "corrupt: found bad")
            os.unlink(layout.index)
        plan = holed.scene.plan(backup=holed.second.id)
        assert not plan.reachable and plan.refused and os.path.basename(path) in plan.refused.why
        assert holed.late[0].at < plan.before.at <= holed.late[1].at  # type: ignore[union-attr, operator]
        found, _ = reachable_windows(holed.scene.server)
        assert {window.bounded_by for window in found} == {"invalid_segment"}
        with pytest.raises(Refused):
            execute(plan.order.to_arguments(), holed.scene.server, Silent())
    finally:
        os.replace(path + ".aside", path)
        shutil.rmtree(layout.own)


def test_records_that_there_was_no_time_to_verify_are_said_and_verified_later(holed: Holed) -> None:
    scene, now = holed.scene, datetime.now(timezone.utc)
    shutil.rmtree(scene.server.layout.own, ignore_errors=True)
    index.catch_up(scene.server.layout, prove=0)
    hurried = make_plan(scene.server, scene.order(backup=holed.second.id), now=now, proving=0)
    assert hurried.reachable and any("not been verified yet" in warning for warning in hurried.warnings)
    later = make_plan(scene.server, scene.order(backup=holed.second.id), now=now)
    assert later.reachable and not any("not been verified yet" in warning for warning in later.warnings)
    again = make_plan(scene.server, scene.order(backup=holed.second.id), now=now, proving=0)
    assert not any("not been verified yet" in warning for warning in again.warnings)


def test_a_byte_flipped_after_the_plan_is_fatal(holed: Holed, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL by itself takes it for the end of all WAL, and opens without the rows behind it."""
    path = holed.path(holed.late[2])
    shutil.copy2(path, path + ".aside")
    from engine.recovery import restore

    real = restore.start.start

    def damaged(*args: object) -> object:
        flip(path, in_the_commit(holed.late[2]))
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(restore.start, "start", damaged)
    order = holed.scene.order(start=True)
    try:
        with pytest.raises(CellarmanError) as caught:
            execute(order.to_arguments(), holed.scene.server, Silent())
        assert "could not restore file" in caught.value.why
        assert not os.path.exists(os.path.join(order.destination, "postmaster.pid"))
    finally:
        os.replace(path + ".aside", path)
        holed.scene.remove(order.destination)


def test_a_backup_without_its_wal_is_passed_over(holed: Holed) -> None:
    assert holed.second.begin_wal
    path = holed.scene.server.layout.wal(holed.second.begin_wal)
    os.rename(path, path + ".aside")
    try:
        plan = holed.scene.plan(Immediate())
        assert plan.info and plan.info.id == holed.first.id
        named = holed.scene.plan(Immediate(), backup=holed.second.id)
        assert named.refused and holed.second.begin_wal in named.refused.why
    finally:
        os.rename(path + ".aside", path)


def test_a_backup_newer_than_the_target_is_never_used(holed: Holed) -> None:
    plan = holed.scene.plan(TimeTarget(holed.early[0].at))
    assert plan.info and plan.info.id == holed.first.id
    assert holed.restored_rows(plan) == holed.early[0].rows
    named = holed.scene.plan(TimeTarget(holed.early[0].at), backup=holed.second.id)
    assert not named.reachable and named.after and named.after.at == holed.second.end_time
    assert not isinstance(named, Choice)


def test_nothing_is_replayed_past_a_time_of_too_little_wal(postgres: Install) -> None:
    """PostgreSQL itself would replay up to there, and end with an error."""
    minimal = {"wal_level": "minimal", "archive_mode": "off", "max_wal_senders": "0"}
    usual = {"wal_level": "replica", "archive_mode": "on", "max_wal_senders": "10"}
    with scene(postgres) as stage:
        stage.insert()
        first = stage.backup()
        before = stage.insert()
        stage.archive_all()
        for settings in (minimal, usual):
            stage.cluster.stop()
            stage.cluster.configure(**settings)
            stage.cluster.start()
        after = stage.insert()
        stage.archive_all()
        refused = stage.plan(TimeTarget(after.at))
        assert refused.refused is not None and "wal_level = minimal from 0/" in refused.refused.why
        assert f"--to-lsn {refused.before.lsn}" in refused.refused.now(
            ""
        ) and "fetch-missing" not in refused.refused.now("")
        [window], _ = reachable_windows(stage.server)
        assert (window.backup, window.bounded_by) == (first.id, "wal_level_minimal")
        assert window.to_time < after.at
        [finding] = minimal_stretches(stage)
        assert (finding.severity, finding.affected_backups) == ("critical", (first.id,))
        assert finding.fix.text() == "cellarman backup main" and "wal_level = minimal from 0/" in finding.why
        assert finding.lost_from == before_commit(stage, before) and finding.lost_to is None
        with stage.restored(refused.before.target) as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == before.rows
        second = stage.backup()
        stage.insert()
        stage.archive_all()
        plan = stage.plan()
        assert plan.refused is None and plan.info is not None and plan.info.id == second.id
        [finding] = minimal_stretches(stage)
        assert finding.severity == "note" and second.id in finding.why and finding.lost_to == second.end_time
        with stage.restored() as (_, conninfo):
            assert value(conninfo, "SELECT count(*) FROM kept") == after.rows + 100


def minimal_stretches(stage: Scene) -> list[Finding]:
    found = findings.report(stage.server, ask_server=False).findings
    return [finding for finding in found if finding.kind == "wal_level_minimal"]


def before_commit(stage: Scene, mark: Mark) -> datetime:
    """Return when the transaction of a mark was committed, as the plan that keeps it says."""
    kept = stage.plan(XidTarget(mark.xid)).kept
    assert kept is not None
    return kept.at
