"""backup.info: Barman's own files, those of all ages, and those of nobody."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.postgres.lsn import Lsn
from engine.repository.backupinfo import BackupInfo, BackupInfoError, Tablespace, parse, render
from tests.engine.repository.catalogues import BARMAN, INFOS, ROOT

PGS = BARMAN / "pgs/meta/20261122T094440-backup.info"


@pytest.mark.parametrize("path", INFOS, ids=lambda path: f"{path.parent.parent.name}-{path.name[:15]}")
def test_what_barman_wrote_is_written_back_byte_for_byte(path: Path) -> None:
    text = path.read_text()
    assert render(parse(text, path.name[:15])) == text


@pytest.mark.parametrize("path", INFOS, ids=lambda path: f"{path.parent.parent.name}-{path.name[:15]}")
def test_the_same_facts_as_a_new_backup_are_barmans_lines_without_the_new_keys_that_are_null(path: Path) -> None:
    text = path.read_text()
    young = re.compile(
        r"^(backup_name|children_backup_ids|cluster_size|compression|data_checksums|encryption|parent_backup_id"
        r"|snapshots_info|summarize_wal|systemid)=None\n",
        re.MULTILINE,
    )
    assert render(replace(parse(text, path.name[:15]), raw={})) == young.sub("", text)


def test_every_field_of_a_real_backup_is_read() -> None:
    info = parse(PGS.read_text(), "20261122T094440")
    assert info.backup_name == "first-stream"
    assert info.status == "DONE" and info.usable and not info.is_tar and not info.is_incremental
    assert info.begin_xlog == Lsn.parse("0/5000028") and info.end_xlog == Lsn.parse("0/6000000")
    assert info.begin_time == datetime(2026, 11, 22, 9, 44, 40, 883173, tzinfo=timezone.utc)
    assert info.tablespaces == (Tablespace("ts1", 16386, "/lab/tbs1"),)
    assert info.systemid == 7710929279087522286 and info.version == 150020 and info.major == 15
    assert info.backup_label is not None and info.backup_label.endswith("START TIMELINE: 1\n")
    assert info.copy_stats == {"copy_time": 126.983637, "total_time": 126.983637}
    assert info.method == "postgres"


def test_incrementals_know_their_kin() -> None:
    info = parse((BARMAN / "pg17/meta/20261122T095136-backup.info").read_text(), "20261122T095136")
    assert info.parent_backup_id == "20261122T095134" and info.children_backup_ids == ("20261122T095137",)
    assert info.is_incremental and info.summarize_wal == "on"


def test_a_passive_nodes_label_is_the_label() -> None:
    text = (ROOT / "tests/fixtures/barman/experiments/passive-node.txt").read_text()
    text = "".join(line + "\n" for line in text.splitlines() if re.match(r"[a-z_]+=", line))
    info = parse(text, "20261122T094810")
    assert info.backup_label is not None and info.backup_label.startswith("START WAL LOCATION: 0/D000028")
    assert info.mode == "passive" and render(info) == text


def test_one_change_changes_one_line() -> None:
    text = PGS.read_text() + "zz_from_barman_4=kept as it is\n"
    changed = render(replace(parse(text, "x"), status="FAILED"))
    assert changed == text.replace("status=DONE", "status=FAILED")


def test_times_keep_their_spelling_until_they_change() -> None:
    text = PGS.read_text().replace("09:46:47.874657+00:00", "11:46:47.874657+02:00")
    info = parse(text, "x")
    assert info.end_time == datetime(2026, 11, 22, 9, 46, 47, 874657, tzinfo=timezone.utc)
    assert render(info) == text
    moved = replace(info, end_time=datetime(2026, 11, 22, 10, tzinfo=timezone.utc))
    assert "end_time=2026-11-22 10:00:00+00:00\n" in render(moved)


def test_a_name_that_is_taken_away_takes_its_key_along() -> None:
    assert "backup_name" not in render(replace(parse(PGS.read_text(), "x"), backup_name=None))


def test_old_files_with_few_keys_are_read_and_stay_small() -> None:
    text = "begin_wal=000000010000000000000005\nend_wal=000000010000000000000005\nstatus=DONE\ntimeline=1\n"
    info = parse(text, "20140101T000000")
    assert (info.mode, info.method, info.version, info.xlog_segment_size) == (None, "postgres", None, 16 << 20)
    assert render(info) == text
    assert not info.usable, "without an end time it cannot be restored to a time"


def test_crlf_comments_blank_lines_and_spaces_do_not_matter() -> None:
    text = "# by hand\r\n\r\nstatus = DONE\r\nsize=  12 \r\n   \nbackup_name = a = b"
    info = parse(text, "x")
    assert (info.status, info.size, info.backup_name) == ("DONE", 12, "a = b")


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-22 09:46:47.874657+00:00", "2026-11-22 09:46:47.874657"),
        ("2026-11-22 09:46:47.874657", "2026-11-22 08:46:47.874657"),
        ("2026-11-22T09:46:47+00:00", "2026-11-22 09:46:47"),
        ("2026-11-22 09:46:47+05:30", "2026-11-22 04:16:47"),
        ("2026-11-22 09:46:47.5+05", "2026-11-22 04:46:47.500000"),
        ("2026-11-22 09:46:47 UTC", "2026-11-22 09:46:47"),
        ("2026-11-22T09:46:47Z", "2026-11-22 09:46:47"),
        ("Sun Nov 22 09:46:47 2026", "2026-11-22 08:46:47"),
    ],
)
def test_every_way_to_write_a_time(text: str, utc: str) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=timezone.utc)
    assert parse(f"end_time={text}\nstatus=DONE", "x").end_time == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("begin_xlog=0/2000028\nend_time=2026-11-22 09:46:47+00:00\n", "no line for status"),
        ("status=DONE\nrubbish\n", "line 2: expected key=value in 'rubbish'"),
        ("=x\n", "line 1"),
        ("status=BOGUS\n", "line 1: not a status"),
        ("size=12x\n", "line 1: not a number"),
        ("size=-1\n", "not a number"),
        ("end_time=yesterday\n", "line 1"),
        ("begin_wal=../../etc/passwd\n", "not a WAL segment's name"),
        ("begin_xlog=zz\n", "not an LSN"),
        ("xlog_segment_size=3\n", "not a WAL segment size"),
        ("tablespaces=[('a', 1)]\n", "line 1"),
        ("tablespaces=__import__('os')\n", "line 1"),
        ("copy_stats=[1]\n", "expected a Python dict"),
        ("backup_label='unterminated\n", "line 1"),
        ("status=DONE\x00\n", "line 1"),
        ("tablespaces=" + "(" * 5000 + "\n", "line 1"),
    ],
)
def test_garbage_is_refused_and_the_line_named(text: str, says: str) -> None:
    with pytest.raises(BackupInfoError) as caught:
        parse(text, "20261122T094440")
    assert "20261122T094440" in str(caught.value) and says in str(caught.value)


@given(st.text())
def test_no_text_at_all_does_worse_than_that(text: str) -> None:
    try:
        info = parse(text, "x")
    except BackupInfoError:
        return
    assert parse(render(info), "x").raw.items() >= info.raw.items()


@given(st.sampled_from(INFOS), st.integers(0, 2000), st.text(max_size=5))
def test_a_damaged_file_is_read_or_refused(path: Path, place: int, damage: str) -> None:
    text = path.read_text()
    try:
        parse(text[:place] + damage + text[place + 3 :], "x")
    except BackupInfoError:
        pass


def test_an_error_of_many_lines_is_written_on_one() -> None:
    text = render(BackupInfo("x", status="FAILED", error="pg_basebackup:\n  could not connect\n"))
    assert "error=pg_basebackup: could not connect\n" in text


def test_a_value_that_would_break_the_file_is_not_written() -> None:
    with pytest.raises(BackupInfoError, match="line break"):
        render(BackupInfo("x", backup_name="a\nstatus=DONE"))


def test_a_new_backups_mandatory_keys_are_never_null() -> None:
    text = render(BackupInfo("x", server_name="main"))
    assert "xlog_segment_size=16777216\n" in text and "mode=postgres\n" in text and "status=EMPTY\n" in text
    assert "compression" not in text and "encryption" not in text


def test_positions_fill_in_what_follows_from_them() -> None:
    info = BackupInfo("x", xlog_segment_size=64 << 20).began(Lsn.parse("1/4000028"), 3)
    assert (info.begin_wal, info.begin_offset, info.timeline) == ("000000030000000100000001", 40, 3)
    info = info.ended(Lsn.parse("1/8000100"), 3)
    assert (info.end_wal, info.end_offset) == ("000000030000000100000002", 256)
