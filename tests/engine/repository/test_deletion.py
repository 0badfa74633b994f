"""Deleting: what goes, what forbids it, and a kill at every step."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import Busy, CellarmanError, NotFound, Refused
from engine.repository import annotations as marks
from engine.repository import deletion, locks, repository, xlogdb
from engine.repository.layout import Layout
from tests.engine.repository.catalogues import add, archive, empty, history, python, segments, tree

FIRST, SECOND, THIRD = "20261101T120000", "20261102T120000", "20261103T120000"
DELETE = (
    "import sys; from engine.repository import deletion; from engine.repository.layout import Layout\n"
    "deletion.delete(Layout('main', sys.argv[1]), sys.argv[2], wait=5)"
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Three backups in segments 3, 6 and 9, and WAL from 1 to 11."""
    layout = empty(tmp_path)
    for day, segment in ((1, 3), (2, 6), (3, 9)):
        add(layout, day, segment)
    archive(layout, *segments(1, 1, 11), "000000010000000000000003.00000028.backup")
    return layout


def kinds(layout: Layout, backup_id: str, minimum_redundancy: int = 0) -> list[str]:
    plan = deletion.plan_deletion(layout, backup_id, minimum_redundancy=minimum_redundancy)
    return [refusal.kind for refusal in plan.refusals]


def test_a_plan_says_what_would_go_and_touches_nothing(layout: Layout) -> None:
    before = tree(layout)
    plan = deletion.plan_deletion(layout, FIRST)
    assert (plan.files, plan.bytes, plan.refusals, plan.resumed) == (3, 30, (), False)
    assert plan.wal == (*segments(1, 1, 3), "000000010000000000000003.00000028.backup", *segments(1, 4, 5))
    assert plan.wal_bytes == 5 * 24 + 40 and plan.freed_bytes == plan.wal_bytes + 30
    assert tree(layout) == before
    assert deletion.plan_deletion(layout, SECOND).wal == tuple(segments(1, 1, 2))


def test_the_oldest_goes_with_its_wal_and_no_trace(layout: Layout) -> None:
    repository.save_facts(layout, FIRST, {"job": "1"})
    deletion.delete(layout, FIRST)
    left = tree(layout)
    assert not [name for name in left if FIRST in name]
    assert [line.name for line in xlogdb.read(layout).lines] == segments(1, 6, 11)
    assert sorted(name for name, _ in xlogdb.archived(layout)) == segments(1, 6, 11)
    assert [info.id for info in repository.backups(layout)] == [THIRD, SECOND]
    assert all(Path(layout.data(info.id), "global/pg_control").exists() for info in repository.backups(layout))


def test_the_wal_of_one_in_the_middle_stays_for_the_older(layout: Layout) -> None:
    deletion.delete(layout, THIRD)
    assert [name for name in segments(1, 3, 11) if not os.path.exists(layout.wal(name))] == []


def test_an_empty_wal_directory_goes_and_histories_stay(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    add(layout, 1, 0xFE)
    add(layout, 2, 0x101)
    archive(layout, *segments(1, 0xFE, 0x102), "00000002.history")
    deletion.delete(layout, FIRST)
    assert not os.path.exists(os.path.join(layout.wals, "0000000100000000"))
    assert os.path.exists(layout.wal("00000002.history"))


def test_index_lines_without_files_go_as_well(layout: Layout) -> None:
    """What a Barman that died between unlinking WAL and rewriting its index leaves, and then stumbles over."""
    for name in segments(1, 1, 4):
        os.unlink(layout.wal(name))
    deletion.delete(layout, FIRST)
    assert [line.name for line in xlogdb.read(layout).lines] == segments(1, 6, 11)


def test_the_last_usable_backup_stays(layout: Layout) -> None:
    deletion.delete(layout, FIRST)
    repository.save(layout, replace(repository.load(layout, SECOND), status="FAILED"))
    with pytest.raises(Refused, match="last usable") as caught:
        deletion.delete(layout, THIRD)
    assert caught.value.exit_code == 3 and "cellarman backup main" in caught.value.now("")
    assert repository.load(layout, THIRD).usable
    marks.set_deleting(layout, SECOND)
    assert kinds(layout, THIRD) == ["last_usable"], "what is being deleted is gone"


def test_failed_backups_go_whenever_one_wants(layout: Layout) -> None:
    for backup_id, status in ((FIRST, "FAILED"), (SECOND, "STARTED")):
        repository.save(layout, replace(repository.load(layout, backup_id), status=status))  # type: ignore[arg-type]
        assert kinds(layout, backup_id, minimum_redundancy=5) == []
        deletion.delete(layout, backup_id)
    assert kinds(layout, THIRD) == ["last_usable"]


def test_wal_is_not_freed_when_no_backup_is_left_to_use_it(layout: Layout) -> None:
    for backup_id in (FIRST, SECOND, THIRD):
        repository.save(layout, replace(repository.load(layout, backup_id), status="FAILED"))
    plan = deletion.delete(layout, FIRST)
    assert not plan.wal and "no other backup is left" in plan.notes[0]
    assert len(list(xlogdb.archived(layout))) == 12


def test_minimum_redundancy_counts_whole_full_backups(layout: Layout) -> None:
    assert kinds(layout, FIRST, minimum_redundancy=2) == []
    assert kinds(layout, FIRST, minimum_redundancy=3) == ["minimum_redundancy"]
    repository.save(layout, replace(repository.load(layout, SECOND), status="FAILED"))
    assert kinds(layout, FIRST, minimum_redundancy=2) == ["minimum_redundancy"]


@pytest.mark.parametrize("how", ["full", "standalone"])
def test_a_kept_backup_stays_until_released(layout: Layout, how: marks.Keep) -> None:
    marks.set_keep(layout, FIRST, how)
    assert kinds(layout, FIRST) == ["keep"]
    with pytest.raises(Refused, match=f"kept \\({how}\\)"):
        deletion.delete(layout, FIRST)
    marks.release(layout, FIRST)
    deletion.delete(layout, FIRST)


def test_a_standalone_keep_keeps_its_wal_and_no_more(layout: Layout) -> None:
    marks.set_keep(layout, FIRST, "standalone")
    deletion.delete(layout, SECOND)
    assert sorted(name for name, _ in xlogdb.archived(layout)) == [
        "000000010000000000000003",
        "000000010000000000000003.00000028.backup",
        *segments(1, 9, 11),
    ]
    assert repository.required_wal(repository.load(layout, FIRST)) == segments(1, 3, 3)


def test_a_parent_stays_until_its_children_are_gone_and_forgets_them(layout: Layout) -> None:
    child = replace(repository.load(layout, THIRD), parent_backup_id=SECOND)
    repository.save(layout, child)
    assert kinds(layout, SECOND) == ["children"], "the child's word is enough"
    repository.save(layout, replace(repository.load(layout, SECOND), children_backup_ids=(THIRD, "20200101T000000")))
    assert kinds(layout, SECOND) == ["children"]
    deletion.delete(layout, THIRD)
    assert repository.load(layout, SECOND).children_backup_ids == ("20200101T000000",)
    assert kinds(layout, SECOND) == [], "a child that is not there needs no parent"


def test_the_only_way_to_the_living_timeline_stays(tmp_path: Path) -> None:
    """Restored to a moment before the newest backup, the server goes on where only the oldest can lead."""
    layout = empty(tmp_path)
    add(layout, 1, 3)
    add(layout, 2, 7)
    archive(layout, *segments(1, 3, 9))
    history(layout, 2, 1, 5)
    archive(layout, *segments(2, 5, 6))
    os.utime(layout.wal(segments(2, 6, 6)[0]), (2e9, 2e9))
    assert kinds(layout, FIRST) == ["last_of_timeline"]
    assert kinds(layout, SECOND) == []
    add(layout, 3, 6, timeline=2)
    assert kinds(layout, FIRST) == []
    assert deletion.plan_deletion(layout, FIRST).wal == (*segments(1, 3, 6), *segments(2, 5, 5))


def test_nobody_deletes_what_somebody_reads(layout: Layout) -> None:
    with locks.hold(layout.lock(FIRST), shared=True):
        assert kinds(layout, FIRST) == ["in_use"] and kinds(layout, SECOND) == []
        with pytest.raises(Busy, match="cannot delete backup"):
            deletion.delete(layout, FIRST, wait=0.1)
    assert repository.load(layout, FIRST).usable


def test_nobody_deletes_while_a_backup_is_taken(layout: Layout) -> None:
    repository.save(layout, replace(repository.load(layout, THIRD), status="STARTED"))
    with locks.hold(layout.lock("backup")):
        plan = deletion.plan_deletion(layout, THIRD)
        assert "this backup is being taken" in plan.refusals[0].reason and str(os.getpid()) in plan.refusals[0].reason
        assert kinds(layout, FIRST) == ["running"]
        with pytest.raises(Busy):
            deletion.delete(layout, FIRST, wait=0.1)


def test_a_locked_index_stops_a_deletion_where_it_can_go_on(layout: Layout) -> None:
    with locks.hold(layout.lock("xlogdb")), pytest.raises(Busy, match="free the WAL"):
        deletion.delete(layout, FIRST, wait=0.1)
    assert not repository.load(layout, FIRST).usable and deletion.unfinished(layout) == [FIRST]
    deletion.delete(layout, FIRST)
    assert deletion.unfinished(layout) == []


def test_what_is_not_there_is_not_found(layout: Layout) -> None:
    for name in ("20200101T000000", "../main", "latest", ""):
        with pytest.raises(NotFound):
            deletion.delete(layout, name)
        with pytest.raises(NotFound):
            deletion.plan_deletion(layout, name)


def test_an_entry_that_cannot_be_read_can_go_and_frees_no_wal(layout: Layout) -> None:
    Path(layout.backup_info(FIRST)).write_text("garbage\n")
    plan = deletion.plan_deletion(layout, SECOND)
    assert not plan.wal and f"backup {FIRST} cannot be read" in plan.notes[0]
    plan = deletion.delete(layout, FIRST)
    assert plan.info is None and not plan.wal and plan.files == 3
    assert not [name for name in tree(layout) if FIRST in name]


def test_links_are_removed_and_not_followed(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("1")
    Path(layout.data(FIRST), "pg_tblspc").mkdir()
    Path(layout.data(FIRST), "pg_tblspc/16386").symlink_to(outside)
    deletion.delete(layout, FIRST)
    assert (outside / "precious").exists()
    shutil.rmtree(layout.backup(SECOND))
    Path(layout.backup(SECOND)).symlink_to(outside)
    with pytest.raises(CellarmanError, match="half-way"):
        deletion.delete(layout, SECOND)
    assert (outside / "precious").exists()


def test_a_catalogue_of_old_goes_the_same_way(layout: Layout) -> None:
    os.rename(layout.backup_info(FIRST), layout.old_backup_info(FIRST))
    process = python(DELETE, layout.home, FIRST, CELLARMAN_CRASH_AT="delete.data-removed")
    process.communicate(timeout=30)
    assert process.returncode == -9
    assert repository.load(layout, FIRST).deleting, "its entry outlives its directory"
    deletion.delete(layout, FIRST)
    assert not [name for name in tree(layout) if FIRST in name]


def test_hard_links_make_the_next_backup_own_what_it_shared(layout: Layout) -> None:
    for backup_id in (FIRST, SECOND):
        info = replace(repository.load(layout, backup_id), mode="rsync-concurrent", deduplicated_size=20)
        repository.save(layout, info)
    shared = Path(layout.data(SECOND), "base/1/1259")
    shared.unlink()
    shared.hardlink_to(Path(layout.data(FIRST), "base/1/1259"))
    assert deletion.plan_deletion(layout, FIRST).bytes == 20
    deletion.delete(layout, FIRST)
    assert repository.load(layout, SECOND).deduplicated_size == 30
    assert repository.load(layout, THIRD).deduplicated_size == 30


KILLS = (*deletion.STEPS, "xlogdb.temporary-written", "xlogdb.renamed", "backup-info.temporary-written")


def family(tmp_path: Path) -> Layout:
    """Three backups: a parent, its child that shares a file with the next, and that one."""
    layout = empty(tmp_path)
    add(layout, 1, 3, children_backup_ids=(SECOND,), mode="rsync-concurrent", status="FAILED")
    add(layout, 2, 6, parent_backup_id=FIRST, mode="rsync-concurrent")
    add(layout, 3, 9, mode="rsync-concurrent", deduplicated_size=20)
    repository.save_facts(layout, SECOND, {"job": "1"})
    shared = Path(layout.data(THIRD), "base/1/1259")
    shared.unlink()
    shared.hardlink_to(Path(layout.data(SECOND), "base/1/1259"))
    archive(layout, *segments(1, 3, 11), "000000010000000000000006.00000028.backup")
    return layout


@pytest.mark.parametrize("at", KILLS)
def test_a_kill_at_any_step_leaves_nothing_good_half_gone_and_running_again_converges(tmp_path: Path, at: str) -> None:
    expected = family(tmp_path / "expected")
    deletion.delete(expected, SECOND)
    layout = family(tmp_path / "killed")
    third = repository.load(layout, THIRD)

    process = python(DELETE, layout.home, SECOND, CELLARMAN_CRASH_AT=at)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -9, err

    left = repository.catalogue(layout)
    assert not left.unreadable
    assert [info.id for info in left.usable] == [THIRD], "the half-deleted one is not listed as good"
    assert left.get(THIRD) == replace(third, deduplicated_size=left.backups[0].deduplicated_size)
    indexed = [line.name for line in xlogdb.read(layout).lines]
    assert all(os.path.exists(layout.wal(name)) for name in indexed), "the index names no file that is gone"
    assert set(segments(1, 9, 11)) <= set(indexed)
    assert all(os.path.exists(layout.wal(name)) for name in segments(1, 9, 11))

    if at == "delete.mark-removed":
        with pytest.raises(NotFound):
            deletion.delete(layout, SECOND)
    else:
        assert deletion.unfinished(layout) == [SECOND]
        assert deletion.delete(layout, SECOND).resumed
    assert deletion.unfinished(layout) == []
    assert tree(layout) == tree(expected)


def test_a_dead_deletion_does_not_hold_up_the_next(layout: Layout) -> None:
    process = python(DELETE, layout.home, FIRST, CELLARMAN_CRASH_AT="delete.wal-begun")
    process.communicate(timeout=30)
    assert process.returncode == -9
    deletion.delete(layout, SECOND)
    assert [info.id for info in repository.catalogue(layout).usable] == [THIRD]
