"""Labels of real backups, and of ones that nobody can use."""

from __future__ import annotations

import pytest

from engine.postgres.backuplabel import LabelError, parse_label
from engine.postgres.lsn import Lsn
from tests.support.cluster import Install, running
from tests.support.waiting import until

LABEL = """START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-01-02 03:04:05 UTC
LABEL: a label: with a colon
START TIMELINE: 1
"""


def test_the_label_and_history_file_of_a_real_backup(each_postgres: Install) -> None:
    with running(each_postgres, archive_mode="on", archive_command="true") as cluster:
        where = cluster.root / "backup"
        cluster.install.run(
            "pg_basebackup", "-D", str(where), "-X", "none", "-c", "fast", "-l", "by hand", "-d", cluster.conninfo
        )
        label = parse_label((where / "backup_label").read_text())
        assert (label.method, label.source, label.label, label.timeline) == ("streamed", "primary", "by hand", 1)
        assert label.start_wal == cluster.value(f"SELECT pg_walfile_name('{label.start_lsn}')")
        assert label.start_lsn < label.checkpoint_lsn
        assert (label.stop_lsn, label.incremental_from) == (None, None)
        [found, *_] = until(lambda: list((cluster.data / "pg_wal").glob("*.backup")), "the backup's history file")
        history = parse_label(found.read_text())
    assert history.start_lsn == label.start_lsn
    assert history.stop_lsn and history.stop_lsn > label.checkpoint_lsn
    assert history.stop_timeline == 1 and history.stop_wal and history.stop_time


def test_an_incremental_ones_label() -> None:
    label = parse_label(LABEL + "INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n")
    assert (label.incremental_from, label.incremental_from_timeline) == (Lsn.parse("0/1000028"), 1)
    assert label.label == "a label: with a colon"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no START WAL LOCATION"),
        ("garbage\0\nand more", "no START WAL LOCATION"),
        (LABEL.replace("0/2000028 (file", "0/2000028 (fail"), "START WAL LOCATION"),
        (LABEL.replace("0/2000060", "zero"), "CHECKPOINT LOCATION: zero"),
        (LABEL.replace("TIMELINE: 1", "TIMELINE: one"), "START TIMELINE: one"),
    ],
)
def test_a_label_that_cannot_be_used_is_named(text: str, reason: str) -> None:
    with pytest.raises(LabelError, match=reason):
        parse_label(text)
