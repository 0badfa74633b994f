"""Which WAL goes with a backup, and which stays for another one: pure rules, on timelines too."""

from __future__ import annotations

from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Lineage, Switch
from engine.repository.backupinfo import BackupInfo
from engine.repository.walneeds import Need, need_of, span_of, unneeded
from tests.engine.repository.catalogues import SIZE, segments

TRUNK = Lineage.of(1)


def need(first: int, last: int | None = None, timeline: int = 1, size: int = SIZE) -> Need:
    return Need(timeline, first, last, Lsn(first * size + 40), size)


def branch(timeline: int, parent: int, segment: int) -> dict[int, Lineage | None]:
    """Return the lineages of an archive where `timeline` left `parent` in the middle of `segment`."""
    switch = Switch(parent, Lsn(segment * SIZE + SIZE // 2), "")
    return {1: TRUNK, timeline: Lineage.of(timeline, (switch,))}


def freed(names: list[str], gone: Need, *needs: Need, lineages: dict[int, Lineage | None] | None = None) -> list[str]:
    return list(unneeded(names, gone, needs, lineages or {1: TRUNK}))


def test_wal_before_the_oldest_remaining_backup_goes() -> None:
    assert freed(segments(1, 1, 9), need(3), need(6)) == segments(1, 1, 5)


def test_wal_since_an_older_backup_stays() -> None:
    assert freed(segments(1, 1, 9), need(6), need(3)) == segments(1, 1, 2)


def test_a_standalone_keep_holds_its_own_range_only() -> None:
    assert freed(segments(1, 1, 9), need(3), need(1, 2), need(7)) == segments(1, 3, 6)


def test_nothing_goes_when_nobody_is_left_that_needs_wal_to_the_end() -> None:
    assert freed(segments(1, 1, 9), need(3)) == []
    assert freed(segments(1, 1, 9), need(3), need(1, 2)) == []


def test_partial_and_backup_files_go_with_their_segment_and_histories_never() -> None:
    names = [
        "000000010000000000000003.partial",
        "000000010000000000000003.00000028.backup",
        "000000010000000000000007.00000028.backup",
        "00000002.history",
        "notes",
    ]
    assert freed(names, need(3), need(6)) == names[:2]


def test_wal_of_a_branch_stays_for_every_backup_before_the_branch() -> None:
    names = segments(1, 3, 9) + segments(2, 7, 9)
    assert freed(names, need(3), need(5), lineages=branch(2, 1, 7)) == segments(1, 3, 4)


def test_wal_of_a_branch_that_the_others_cannot_reach_goes() -> None:
    names = segments(1, 3, 9) + segments(2, 5, 9)
    assert freed(names, need(3), need(8), lineages=branch(2, 1, 5)) == segments(1, 3, 7) + segments(2, 5, 9)


def test_the_trunk_before_a_backup_on_the_branch_goes() -> None:
    names = segments(1, 3, 9) + segments(2, 7, 12)
    assert freed(names, need(3), need(10, timeline=2), lineages=branch(2, 1, 7)) == segments(1, 3, 9) + segments(
        2, 7, 9
    )


def test_timelines_that_the_backup_never_reached_are_not_touched() -> None:
    names = segments(1, 1, 9) + segments(2, 3, 9)
    assert freed(names, need(6), need(8), lineages=branch(2, 1, 3)) == segments(1, 1, 7)


def test_a_timeline_without_a_readable_history_counts_as_needed() -> None:
    names = segments(1, 3, 6) + segments(2, 5, 9)
    for lineages in ({1: TRUNK}, {1: TRUNK, 2: None}):
        assert freed(names, need(3), need(5), lineages=dict(lineages)) == segments(1, 3, 4)


def test_names_of_another_segment_size_count_as_needed() -> None:
    odd = "0000000100000000000000FF"
    assert freed([odd], need(3, size=64 << 20), need(5, size=64 << 20)) == []
    assert freed(segments(1, 1, 9), need(3), need(9), need(1, size=64 << 20)) == []


def test_backups_that_failed_or_go_need_nothing() -> None:
    info = BackupInfo("x", status="DONE").began(Lsn(3 * SIZE + 40), 1)
    assert need_of(info) == need(3)
    for status in ("WAITING_FOR_WALS", "SYNCING", "STARTED"):
        assert need_of(BackupInfo("x", status=status, begin_wal=info.begin_wal)) is not None  # type: ignore[arg-type]
    failed = BackupInfo("x", status="FAILED", begin_wal=info.begin_wal)
    assert need_of(failed) is None and span_of(failed) is not None
    assert need_of(BackupInfo("x", status="DONE", begin_wal=info.begin_wal, deleting=True)) is None
    assert need_of(BackupInfo("x", status="STARTED")) is None and span_of(BackupInfo("x")) is None
