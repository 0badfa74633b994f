"""The catalogue: listing what anybody left there, finding, naming, writing."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engine.errors import CellarmanError, NotFound, UsageError
from engine.repository import annotations as marks
from engine.repository import files, locks, repository
from engine.repository.backupinfo import BackupInfo, BackupInfoError
from tests.engine.repository.catalogues import BARMAN, SIZE, add, barman, empty, python, segments, tree

SERVERS = sorted(path.name for path in BARMAN.iterdir() if (path / "meta").is_dir())


@pytest.mark.parametrize("server", SERVERS)
def test_barmans_catalogues_are_listed_newest_first(tmp_path: Path, server: str) -> None:
    found = repository.catalogue(barman(tmp_path, server))
    assert not found.unreadable
    ids = [info.id for info in found.backups]
    assert ids == sorted(ids, reverse=True) and len(ids) == len(list((BARMAN / server / "meta").iterdir()))
    assert all(info.usable for info in found.backups)


def test_both_places_are_read_and_the_newer_wins(tmp_path: Path) -> None:
    layout = barman(tmp_path, "pgf")
    older, newer = "20261122T094702", "20261122T094816"
    for backup_id in (older, newer):
        Path(layout.backup(backup_id)).mkdir()
        shutil.copy(layout.backup_info(backup_id), layout.old_backup_info(backup_id))
    Path(layout.backup_info(older)).unlink()
    text = Path(layout.old_backup_info(newer)).read_text().replace("DONE", "FAILED")
    Path(layout.old_backup_info(newer)).write_text(text)
    found = {info.id: info.status for info in repository.backups(layout)}
    assert found == {older: "DONE", newer: "DONE"}
    repository.save(layout, repository.load(layout, older))
    assert Path(layout.backup_info(older)).read_bytes() == Path(layout.old_backup_info(older)).read_bytes()


def test_garbage_does_not_kill_the_list(tmp_path: Path) -> None:
    layout = barman(tmp_path, "pgf")
    damage = {
        "20261101T000000": b"",
        "20261102T000000": b"\xff\xfe\x00garbage",
        "20261103T000000": b"status=BOGUS\n",
        "20261104T000000": b"status=DONE\n" + b"x" * (2 << 20),
        "../../etc": b"",
        "odd name": b"status=DONE\n",
    }
    for backup_id, data in damage.items():
        if "/" not in backup_id:
            Path(layout.backup_info(backup_id)).write_bytes(data)
    Path(layout.meta, "20261105T000000-backup.info").mkdir()
    os.mkfifo(layout.backup_info("20261109T000000"))  # would have a plain open wait for ever
    Path(layout.meta, "20261106T000000-backup.info.tmp").write_bytes(b"status=DONE\n")
    Path(layout.meta, "notes.txt").touch()
    Path(layout.base, "lost+found").mkdir()
    Path(layout.base, ".hidden").mkdir()
    Path(layout.base, "20261107T000000").mkdir()
    Path(layout.base, "20261108T000000").touch()
    found = repository.catalogue(layout)
    assert [info.id for info in found.backups] == ["odd name", "20261122T094816", "20261122T094702"]
    reasons = {broken.id[6:8]: broken.reason for broken in found.unreadable}
    assert list(reasons) == ["09", "07", "05", "04", "03", "02", "01"]
    assert (
        "full disk" in reasons["01"]
        and "full disk" in reasons["09"]
        and "UTF-8" in reasons["02"]
        and "BOGUS" in reasons["03"]
    )
    assert "bigger" in reasons["04"] and "Is a directory" in reasons["05"] and "no backup.info" in reasons["07"]
    with pytest.raises(BackupInfoError, match="BOGUS"):
        repository.find(layout, "20261103T000000")


def test_a_server_that_was_never_there_has_no_backups(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    shutil.rmtree(layout.home)
    assert repository.catalogue(layout) == repository.Catalogue(())
    with pytest.raises(NotFound, match="no backup yet"):
        repository.find(layout, "latest")


def test_a_backup_is_found_by_id_name_and_word(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    add(layout, 1, 5)
    add(layout, 2, 7, backup_name="before-upgrade")
    add(layout, 3, 9, backup_name="before-upgrade")
    add(layout, 4, 11, status="FAILED")
    add(layout, 5, 13)
    marks.set_deleting(layout, "20261105T120000")
    ids = {
        ref: repository.find(layout, ref).id[6:8]
        for ref in ("latest", "last", "oldest", "FIRST", "before-upgrade", "last-failed", "20261101T120000")
    }
    assert list(ids.values()) == ["03", "03", "01", "01", "03", "04", "01"]
    assert repository.find(layout, "20261105T120000").deleting
    with pytest.raises(NotFound) as caught:
        repository.find(layout, "before-upgrad")
    assert "before-upgrade" in caught.value.why and caught.value.exit_code == 2


@pytest.mark.parametrize("ref", ["../pgf", "", "/etc/passwd", "20261122T094702/../20261122T094702", "*"])
def test_a_reference_never_leaves_the_catalogue(tmp_path: Path, ref: str) -> None:
    with pytest.raises(NotFound):
        repository.find(barman(tmp_path, "pgf"), ref)


@pytest.mark.parametrize("name", ["latest", "Oldest", "auto", "20261122T094702", "", " a", "a\nb", "taken", "a\x1b[2J"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    layout = empty(tmp_path)
    add(layout, 1, 5, backup_name="taken")
    with pytest.raises(UsageError):
        repository.check_name(layout, name)
    repository.check_name(layout, "vor dem Upgrade – größer")


def test_a_backup_that_came_to_nothing_holds_no_name(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    add(layout, 1, 5, backup_name="nightly", status="FAILED")
    add(layout, 2, 7, backup_name="nightly", status="STARTED")
    add(layout, 3, 9, backup_name="nightly")
    marks.set_deleting(layout, "20261103T120000")
    repository.check_name(layout, "nightly")
    with locks.hold(layout.lock("backup"), what="back up main"), pytest.raises(UsageError, match="20261102T120000"):
        repository.check_name(layout, "nightly")
    add(layout, 4, 11, backup_name="nightly", status="WAITING_FOR_WALS")
    with pytest.raises(UsageError, match="20261104T120000"):
        repository.check_name(layout, "nightly")


def test_a_name_means_the_good_backup_of_those_that_carry_it(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    add(layout, 1, 5, backup_name="nightly", status="FAILED")
    add(layout, 2, 7, backup_name="nightly", status="FAILED")
    assert repository.find(layout, "nightly").id[6:8] == "02", "none is good: its newest"
    add(layout, 3, 9, backup_name="nightly", status="WAITING_FOR_WALS")
    add(layout, 4, 11, backup_name="nightly", status="FAILED")
    assert repository.find(layout, "nightly").id[6:8] == "03", "one that may become good comes before one that failed"
    add(layout, 5, 13, backup_name="nightly")
    add(layout, 6, 15, backup_name="nightly", status="FAILED")
    add(layout, 7, 17, backup_name="nightly")
    marks.set_deleting(layout, "20261107T120000")
    assert repository.find(layout, "nightly").id[6:8] == "05"


def test_ids_are_local_time_and_only_grow(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    now = datetime(2026, 11, 23, 1, 30, 0, tzinfo=timezone.utc)
    local = now.astimezone().strftime("%Y%m%dT%H%M%S")
    assert repository.new_id(layout, now) == local
    repository.save(layout, BackupInfo(local))
    following = (datetime.strptime(local, "%Y%m%dT%H%M%S") + timedelta(seconds=1)).strftime("%Y%m%dT%H%M%S")
    assert repository.new_id(layout, now) == following
    assert repository.new_id(layout, now - timedelta(hours=1)) == following, "the hour that comes twice"
    Path(layout.backup_info("zzz")).write_text("status=DONE\n")
    Path(layout.base, "20991231T235959").mkdir()
    assert repository.new_id(layout, now) == "21000101T000000"


def test_saving_is_atomic_under_a_kill(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    info = add(layout, 1, 5)
    code = (
        "import sys; from dataclasses import replace; from engine.repository import repository\n"
        "from engine.repository.layout import Layout\nlayout = Layout('main', sys.argv[1])\n"
        "repository.save(layout, replace(repository.find(layout, 'latest'), status='FAILED'))"
    )
    process = python(code, layout.home, CELLARMAN_CRASH_AT="backup-info.temporary-written")
    process.communicate(timeout=30)
    assert process.returncode == -9
    assert repository.find(layout, info.id).status == "DONE"
    repository.save(layout, replace(info, status="FAILED"))
    assert repository.find(layout, info.id).status == "FAILED"
    assert not [name for name in tree(layout) if name.endswith(".tmp")]


def test_what_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    shutil.rmtree(layout.meta)
    with pytest.raises(CellarmanError, match=r"cannot write .*meta/20261101T120000-backup\.info: .*No such file"):
        repository.save(layout, BackupInfo("20261101T120000"))
    with pytest.raises(CellarmanError, match="cannot write"):
        repository.save_facts(layout, "20261101T120000", {})


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    info = add(layout, 1, 5)
    Path(f"{layout.backup_info(info.id)}.tmp").symlink_to("/dev/full")
    with pytest.raises(CellarmanError, match="No space left"):
        repository.save(layout, replace(info, status="FAILED"))
    assert repository.load(layout, info.id).status == "DONE"
    repository.save(layout, replace(info, status="FAILED"))
    assert repository.load(layout, info.id).status == "FAILED"


def test_sizes_count_links_once_and_follow_none(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    info = add(layout, 1, 5)
    data = Path(layout.data(info.id))
    (data / "hard").hardlink_to(data / "global/pg_control")
    (data / "link").symlink_to("/etc")
    (data / "file-link").symlink_to("/etc/passwd")
    assert repository.sizes(layout, info.id) == (40, 20, 4)


def test_the_wal_that_a_backup_needs(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    info = add(layout, 1, 0xFE, span=4, timeline=2)
    assert repository.required_wal(info) == segments(2, 0xFE, 0x101)
    assert repository.required_wal(replace(info, end_wal=None)) == []
    for end in ("000000010000000000000001", "0000000200000000000000FD", "00000002FFFFFFFF000000FF"):
        with pytest.raises(BackupInfoError):
            repository.required_wal(replace(info, end_wal=end))
    assert info.xlog_segment_size == SIZE


def test_our_own_facts_stand_beside_barmans(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    assert repository.facts(layout, "20261101T120000") == {}
    repository.save_facts(layout, "20261101T120000", {"job": "1", "restore_point": "0/5000100"})
    assert repository.facts(layout, "20261101T120000")["job"] == "1"
    assert not repository.catalogue(layout).backups
    for text in ("{", "[]", "\udcff"):
        Path(layout.own_facts("20261101T120000")).write_bytes(text.encode("utf-8", "surrogateescape"))
        assert repository.facts(layout, "20261101T120000") == {}


def test_directories_are_made_once_and_a_refusal_names_its_place(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    repository.prepare(layout)
    assert all(Path(place).is_dir() for place in layout.directories())
    (tmp_path / "file").touch()
    with pytest.raises(CellarmanError, match="file/main"):
        repository.prepare(type(layout)("main", str(tmp_path / "file" / "main")))


def test_two_hundred_backups_are_listed_at_once(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    text = (BARMAN / "pgh/meta/20261122T094810-backup.info").read_text()
    for number in range(200):
        backup_id = f"{20260101 + number // 24}T{number % 24:02d}0000"
        Path(layout.backup_info(backup_id)).write_text(text)
        Path(layout.data(backup_id)).mkdir(parents=True)
    begin = time.process_time()
    assert len(repository.backups(layout)) == 200
    assert time.process_time() - begin < 1, "it takes 35 ms; a machine under load is given time"


def test_writers_of_one_file_at_once_do_not_tear_it(tmp_path: Path) -> None:
    target = tmp_path / "identity.json"
    contents = [bytes([65 + n]) * 50_000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda data: files.replace(str(target), data), contents))
            assert target.read_bytes() in contents
    assert os.listdir(tmp_path) == ["identity.json"]
