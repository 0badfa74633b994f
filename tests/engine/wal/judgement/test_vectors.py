"""The test vectors of the gap analysis: each situation on disk, and the verdict on it."""

from __future__ import annotations

import gzip
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engine.errors import Refused
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Switch
from engine.wal.accepted import Accepted, accept
from engine.wal.findings import report
from engine.wal.gaps import Archive
from engine.wal.ingest import ingest
from engine.wal.inventory import list_names, take
from engine.wal.judgement.judge import judge
from engine.wal.judgement.values import Base, Case
from engine.wal.runs import Runs
from tests.engine.wal import pages
from tests.engine.wal.judgement.archive_of import HOUR, NOW, SIZE, Repo, alarms, filled, notes, primary, short

NAME6 = pages.name(6)
FORK = "1\t0/580000\tno recovery target specified\n"
"""Timeline 2 left timeline 1 inside segment 5."""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path)


def test_v1_everything_is_there(repo: Repo) -> None:
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    assert alarms(repo.findings(primary(0xA, last_archived=pages.name(9)))) == []
    assert alarms(repo.findings()) == []


def test_v2_a_segment_that_waits_to_be_archived_is_no_gap(repo: Repo) -> None:
    repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    live = primary(0xA, ready={NAME6: NOW - timedelta(seconds=20)}, pg_wal=(NAME6,), last_archived=pages.name(5))
    found = repo.findings(live)
    assert alarms(found) == []
    [pending] = [f for f in found if f.kind == "pending"]
    assert (pending.state, pending.first, pending.count) == ("pending", NAME6, 1)


def test_v2_one_that_waits_for_long_or_fails_is_said(repo: Repo) -> None:
    repo.put("1/1..1/5").backup(2, 3, hour=10)
    ready = {NAME6: NOW - timedelta(minutes=30)}
    old = primary(7, ready=ready, pg_wal=(NAME6,), last_archived=pages.name(5))
    assert alarms(repo.findings(old)) == [("pending", "warning", "pending", "1/6", "1/6")]
    ready = {NAME6: NOW - timedelta(seconds=30)}
    failing = primary(7, ready=ready, pg_wal=(NAME6,), last_archived=pages.name(5), failing=NAME6)
    [finding] = [f for f in repo.findings(failing) if f.kind == "pending"]
    assert finding.severity == "warning" and NAME6 in finding.why


def test_v3_a_lost_segment_ends_what_can_be_recovered(repo: Repo) -> None:
    backup = repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    live = primary(0xA, last_archived=pages.name(9))
    for found in (repo.findings(live), repo.findings()):
        assert alarms(found) == [("hole", "critical", "lost", "1/6", "1/6")]
        [hole] = [f for f in found if f.kind == "hole"]
        assert hole.affected_backups == (backup,) and hole.lost_to is None
        assert hole.lost_from == NOW - 10 * HOUR, "no commit is known, so the backup's end"
        assert hole.fix.text() == "cellarman backup main"


def test_v4_a_later_backup_leaves_only_the_times_between(repo: Repo) -> None:
    first = repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    second = repo.backup(7, 8, hour=2)
    found = repo.findings(primary(0xA, last_archived=pages.name(9)))
    assert alarms(found) == [("hole", "warning", "lost", "1/6", "1/6")]
    [hole] = [f for f in found if f.kind == "hole"]
    assert hole.affected_backups == (first,) and second in hole.why
    assert (hole.lost_from, hole.lost_to) == (NOW - 10 * HOUR, NOW - 2 * HOUR)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_the_server_may_still_have_is_looked_for_before_anything_else(repo: Repo, damaged: bool) -> None:
    repo.server = replace(repo.server, conninfo="host=db1")
    repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    if damaged:
        repo.path(1, 6).write_bytes(bytes(SIZE))
    [hole] = [f for f in repo.findings() if f.severity != "note"]
    assert (hole.severity, hole.state) == ("critical", "unknown")
    assert hole.why.endswith("; the server may still have it")
    assert hole.fix.text() == "cellarman wal fetch-missing main; if that finds nothing: cellarman backup main"
    repo.backup(7, 8, hour=2)
    [hole] = [f for f in repo.findings() if f.severity != "note"]
    look, accept = hole.fix.commands
    assert look.does("wal", "fetch-missing") and "--accept" in accept.words


def test_v5_what_lacks_before_the_oldest_backup_is_irrelevant(repo: Repo) -> None:
    repo.put("1/0 1/2..1/9").backup(2, 3, hour=10)
    found = repo.findings(primary(0xA, last_archived=pages.name(9)))
    assert alarms(found) == []
    assert {("irrelevant", "1/1"), ("orphan", "1/0")} <= {(f.kind, short(f.first)) for f in found}


def test_v6_without_its_first_segment_a_backup_is_unusable(repo: Repo) -> None:
    backup = repo.put("1/1 1/3..1/9").backup(2, 3, hour=10)
    found = repo.findings(primary(0xA, last_archived=pages.name(9)))
    assert alarms(found)[0] == ("unusable", "critical", "missing_start", "1/2", "1/2")
    assert found[0].affected_backups == (backup,)


def test_v7_without_its_last_segment_a_backup_is_unusable_unless_it_brings_it(repo: Repo) -> None:
    backup = repo.put("1/1..1/2 1/4..1/9").backup(2, 3, hour=10)
    live = primary(0xA, last_archived=pages.name(9))
    assert ("unusable", "critical", "missing_stop", "1/3", "1/3") in alarms(repo.findings(live))
    own = Path(repo.layout.data(backup)) / "pg_wal"
    own.mkdir()
    for number in (2, 3):
        (own / pages.name(number)).write_bytes(b"")
    found = repo.findings(live)
    assert "unusable" not in {f.kind for f in found} and "self_contained" in notes(found)


@pytest.mark.parametrize("indexed", [False, True])
def test_v8_v9_v11_damaged_segments_satisfy_nothing(repo: Repo, indexed: bool) -> None:
    """Whether the damage was there when the segment was indexed, or came later and in place."""
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    if indexed:
        assert alarms(repo.findings()) == []
    good = repo.path(1, 6).read_bytes()
    damages = {
        "invalid": [good[: SIZE // 2], bytes(SIZE), good[: SIZE // 2] + bytes(SIZE // 2), b""],
        "misplaced": [filled(5, 1)],
        "alien": [filled(6, 1, system=pages.OTHER_SYSTEM)],
    }
    for kind, contents in damages.items():
        for number, data in enumerate(contents):
            repo.path(1, 6).write_bytes(data)
            found = repo.findings(primary(0xA, last_archived=pages.name(9)))
            assert alarms(found) == [(kind, "critical", "lost", "1/6", "1/6")], (kind, number)
    repo.path(1, 6).write_bytes(good)
    assert alarms(repo.findings()) == []


def test_v10_a_flipped_byte_is_corrupt(repo: Repo) -> None:
    repo.put("1/1..1/9", compression="zstd").backup(2, 3, hour=10)
    assert alarms(repo.findings()) == []
    data = bytearray(repo.path(1, 6).read_bytes())
    data[-2] ^= 1
    repo.path(1, 6).write_bytes(data)
    assert alarms(repo.findings()) == [("corrupt", "critical", "lost", "1/6", "1/6")]


def test_v13_only_a_partial_is_left(repo: Repo) -> None:
    repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    (Path(repo.layout.wals) / pages.name(6)[:16] / f"{NAME6}.partial").write_bytes(filled(6, 1)[: SIZE // 2])
    found = repo.findings(primary(0xA, last_archived=pages.name(9)))
    assert alarms(found) == [("hole", "critical", "partial_only", "1/6", "1/6")]
    assert ".partial" in found[0].fix.text() and "never" not in found[0].fix.text()


def test_v13_a_partial_with_all_of_it_can_be_used_by_hand(repo: Repo) -> None:
    repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    partial = Path(repo.layout.wals) / pages.name(6)[:16] / f"{NAME6}.partial"
    partial.write_bytes(filled(6, 1))
    [hole] = [f for f in repo.findings() if f.kind == "hole"]
    assert hole.state == "lost_but_recoverable" and hole.fix.text().startswith(f"cp {partial} ")


@pytest.mark.parametrize("queue", ["incoming", "streaming"])
def test_a_segment_in_a_queue_that_is_not_whole_is_named_where_nothing_follows(repo: Repo, queue: str) -> None:
    repo.put("1/1..1/5").backup(2, 3, hour=10)
    place = Path(getattr(repo.layout, queue))
    place.mkdir(parents=True, exist_ok=True)
    (place / NAME6).write_bytes(filled(6, 1)[: SIZE // 2])
    [found] = [f for f in report(repo.server, now=NOW, ask_server=False).findings if f.severity != "note"]
    assert (found.kind, found.first) == ("unfinished", NAME6) and str(place) in found.why


@pytest.mark.parametrize("partial", [False, True])
def test_v14_v15_the_parents_copy_of_the_switch_segment_is_not_needed(repo: Repo, partial: bool) -> None:
    repo.put("1/1..1/4 2/6..2/9").put("2/5", of=1).history(2, FORK).backup(2, 3, hour=10)
    if partial:
        (Path(repo.layout.wals) / pages.name(5)[:16] / f"{pages.name(5)}.partial").write_bytes(b"")
    assert alarms(repo.findings()) == []
    assert alarms(repo.findings(primary(0xA, timeline=2, last_archived=pages.name(9, 2)))) == []


def test_v16_the_dead_branch_would_be_replayed(repo: Repo) -> None:
    repo.put("1/1..1/5 2/6..2/9").history(2, FORK).backup(2, 3, hour=10)
    assert ("branch_hazard", "critical", "lost", "2/5", "2/5") in alarms(repo.findings())


def test_v17_without_any_copy_of_the_switch_segment_there_is_a_hole(repo: Repo) -> None:
    repo.put("1/1..1/4 2/6..2/9").history(2, FORK).backup(2, 3, hour=10)
    assert alarms(repo.findings()) == [("hole", "critical", "lost", "2/5", "2/5")]


def test_v18_a_dead_tail_is_neither_gap_nor_coverage(repo: Repo) -> None:
    repo.put("1/1..1/8 2/6..2/9").put("2/5", of=1).history(2, FORK).backup(2, 3, hour=10)
    found = repo.findings()
    assert alarms(found) == []
    [tail] = [f for f in found if f.kind == "dead_tail"]
    assert (tail.timeline, short(tail.first), short(tail.last), tail.count) == (1, "1/5", "1/8", 4)
    repo.path(2, 7).unlink()
    assert alarms(repo.findings()) == [("hole", "critical", "lost", "2/7", "2/7")]


def test_v19_a_backup_on_the_old_branch_follows_its_own(repo: Repo) -> None:
    repo.put("1/1..1/9 2/6..2/9").put("2/5", of=1).history(2, FORK).backup(7, 8, hour=1)
    found = [f for f in repo.findings() if f.kind == "backup_off_branch"]
    assert len(found) == 1 and found[0].severity == "warning"
    assert "--timeline current" in found[0].fix.text()


def test_v20_a_missing_history_hides_the_newer_ones(repo: Repo) -> None:
    repo.put("1/1..1/4 2/5..2/6 3/7..3/9").backup(2, 3, hour=10)
    repo.history(3, f"{FORK}2\t0/780000\tno recovery target specified\n")
    kinds = {(f.kind, f.severity, f.timeline) for f in repo.findings()}
    assert ("history_hole", "critical", 2) in kinds and ("history_missing", "critical", 2) in kinds


def test_v24_timelines_are_hexadecimal(repo: Repo) -> None:
    repo.put("9/1..9/4 A/5..A/9").backup(2, 3, 9, hour=10)
    repo.history(9, "1\t0/10\tx\n").history(10, "1\t0/10\tx\n9\t0/500000\tx\n")
    assert alarms(repo.findings()) == []
    repo.path(10, 6).unlink()
    assert alarms(repo.findings()) == [("hole", "critical", "lost", "A/6", "A/6")]


@pytest.mark.parametrize(
    ("size", "before", "after"),
    [
        (64 << 20, "00000001000000000000003F", "000000010000000100000000"),
        (16 << 20, "0000000100000000000000FF", "000000010000000100000000"),
        (1 << 20, "000000010000000000000FFF", "000000010000000100000000"),
        (1 << 30, "000000010000000000000003", "000000010000000100000000"),
    ],
)
def test_v25_v27_a_log_ends_where_the_segment_size_says(repo: Repo, size: int, before: str, after: str) -> None:
    """Names are what this is about: the files are empty."""
    last = (1 << 32) // size - 1
    for name in (before, after):
        path = Path(repo.layout.wal(name))
        path.parent.mkdir(exist_ok=True)
        path.touch()
    inventory = take(repo.layout, list_names(repo.layout), size)
    assert list(inventory.segments[1].spans()) == [(last, last + 1)]
    base = Base("b", 1, Lsn(last * size + 40), Lsn(last * size + 99), NOW, Lsn(last * size + 40))
    assert judge(Case("main", Archive(size, inventory.segments), [base], NOW)) == []


def test_a_segment_size_that_cannot_be_is_said_and_nothing_judged(repo: Repo) -> None:
    path = Path(repo.layout.wal("000000010000000000000FFE"))
    path.parent.mkdir()
    path.write_bytes(b"no header")
    found = repo.findings()
    assert [(f.kind, f.severity) for f in found if f.severity != "note"] == [("wrong_segment_size", "critical")]


def test_v28_two_encodings_are_one_segment(repo: Repo) -> None:
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    packed = repo.path(1, 6).with_suffix(".gz")
    packed.write_bytes(gzip.compress(repo.path(1, 6).read_bytes()))
    found = repo.findings()
    assert alarms(found) == [] and "duplicate" in notes(found)
    repo.path(1, 6).unlink()
    [hole] = [f for f in repo.findings() if f.kind == "hole"]
    assert hole.state == "lost_but_recoverable" and hole.fix.text() == "cellarman wal fetch-missing main"


def test_v29_two_contents_under_one_name_are_both_kept_and_told_apart(repo: Repo) -> None:
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    other = bytearray(filled(6, 1))
    other[16:20] = (77).to_bytes(4, "little")
    (Path(repo.layout.errors) / f"{NAME6}.20261122T100000Z.duplicate").write_bytes(other)
    [conflict] = [f for f in repo.findings() if f.kind == "conflict"]
    assert conflict.severity == "warning" and "the archived one goes on from the segment before" in conflict.why


def test_v30_a_new_incarnation_begins_without_a_gap(repo: Repo) -> None:
    """pg_upgrade made a new cluster: the old one's WAL and backups are judged by themselves."""
    old = {"system": pages.OTHER_SYSTEM}
    repo.put("1/1..1/4", **old).put("1/A..1/C")
    repo.backup(2, 3, hour=20, systemid=pages.OTHER_SYSTEM)
    repo.backup(0xA, 0xB, hour=2)
    assert alarms(repo.findings(primary(0xD, last_archived=pages.name(0xC)))) == []
    repo.path(1, 3).unlink()
    assert ("unusable", "critical", "missing_stop", "1/3", "1/3") in alarms(repo.findings())


def test_v32_what_a_standby_archives_again_is_the_same(repo: Repo) -> None:
    """archive_mode = always: it comes twice, once compressed by somebody else's command."""
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    plain = repo.path(1, 6).read_bytes()
    before = repo.path(1, 6).stat()
    for again in (plain, gzip.compress(plain)):
        (Path(repo.layout.incoming) / repo.path(1, 6).name).write_bytes(again)
        assert ingest(repo.server).duplicates == (repo.path(1, 6).name,)
    assert os.listdir(repo.layout.incoming) == os.listdir(repo.layout.errors) == []
    assert repo.path(1, 6).stat().st_ino == before.st_ino
    found = repo.findings()
    assert alarms(found) == [] and "conflict" not in notes(found)


def test_v33_a_backup_whose_last_segment_has_not_come_yet_is_waited_for(repo: Repo) -> None:
    repo.put("1/1..1/7").backup(2, 8, hour=0)
    found = repo.findings(primary(8, pg_wal=(pages.name(8),), last_archived=pages.name(7)))
    assert alarms(found) == [("not_yet_usable", "warning", "writing", "1/8", "1/8")]
    assert alarms(repo.findings()) == [("not_yet_usable", "warning", "unknown", "1/8", "1/8")]


def test_v34_a_file_without_a_line_in_the_catalogue_is_no_gap(repo: Repo) -> None:
    repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    repo.catalogue_all()
    repo.put("1/6")
    found = repo.findings()
    assert alarms(found) == []
    assert [(f.kind, short(f.first)) for f in found if f.kind == "catalogue_stale"] == [("catalogue_stale", "1/6")]


def test_v36_a_quiet_server_is_well_and_its_exposure_is_said(repo: Repo) -> None:
    repo.put("1/1..1/9").backup(2, 3, hour=100)
    live = primary(0xA, last_archived=pages.name(9), pg_wal=(pages.name(0xA),))
    found = repo.findings(live, now=NOW + timedelta(days=3))
    assert alarms(found) == []
    [rpo] = [f for f in found if f.kind == "rpo"]
    assert "3 days" in rpo.why and "MB" in rpo.why


def test_v38_a_kept_backup_with_its_own_wal_is_usable_and_goes_no_further(repo: Repo) -> None:
    repo.put("1/2..1/3 1/8..1/C").backup(2, 3, hour=100, keep="standalone")
    repo.backup(8, 9, hour=1)
    found = repo.findings(primary(0xD, last_archived=pages.name(0xC)))
    assert alarms(found) == [] and "standalone" in notes(found)


def test_v39_an_accepted_gap_alarms_nobody_and_still_bounds(repo: Repo) -> None:
    backup = repo.put("1/1..1/5 1/7..1/9").backup(2, 3, hour=10)
    accept(repo.layout, Accepted(NAME6, NAME6, "disk of the archive host died", NOW, "dba"))
    found = repo.findings()
    assert alarms(found) == []
    [hole] = [f for f in found if f.kind == "hole"]
    assert (hole.state, hole.affected_backups) == ("accepted", (backup,))
    assert "disk of the archive host died" in hole.why and hole.lost_from is not None
    repo.path(1, 7).unlink()
    assert alarms(repo.findings()) == [("hole", "critical", "lost", "1/7", "1/7")]


def test_v40_a_timeline_that_does_not_exist_is_refused(repo: Repo) -> None:
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    with pytest.raises(Refused, match="timeline 7 cannot be followed"):
        report(repo.server, ask_server=False, selected=(7,))
    assert report(repo.server, ask_server=False, selected=(1,)).status == "ok"


def test_a_switch_on_a_segments_border_needs_the_parents_last_segment_whole(repo: Repo) -> None:
    repo.put("1/1..1/5 2/6..2/9").history(2, "1\t0/600000\tx\n").backup(2, 3, hour=10)
    assert alarms(repo.findings()) == []
    repo.path(1, 5).unlink()
    assert alarms(repo.findings()) == [("hole", "critical", "lost", "1/5", "1/5")]


def test_a_directory_that_cannot_be_read_is_unknown_and_never_ok(repo: Repo) -> None:
    backup = repo.put("1/1..1/9 1/1000..1/1004").backup(2, 3, hour=10)
    directory = repo.path(1, 5).parent
    directory.chmod(0)
    try:
        if os.access(directory, os.R_OK):
            pytest.skip("this account reads everything")
        found = repo.findings()
    finally:
        directory.chmod(0o755)
    assert {("unknown", "warning"), ("unusable", "warning")} <= {alarm[:2] for alarm in alarms(found)}
    assert backup in {b for f in found for b in f.affected_backups}


@pytest.mark.parametrize("text", ["", "garbage\n", "1\t0/580000\n1\t0/600000\n", "9\t0/500000\tx\n"])
def test_a_history_that_cannot_be_read_is_said(repo: Repo, text: str) -> None:
    repo.put("1/1..1/4 2/5..2/9").history(2, text).backup(2, 3, hour=10)
    assert ("history_missing", "critical", "invalid") in {alarm[:3] for alarm in alarms(repo.findings())}


def test_a_history_whose_words_are_in_another_encoding_is_good(repo: Repo) -> None:
    """PostgreSQL reads the numbers; behind them stands a restore point's name, in the database's encoding."""
    repo.put("1/1..1/4 2/6..2/9").put("2/5", of=1).history(2, "").backup(2, 3, hour=10)
    (Path(repo.layout.wals) / "00000002.history").write_bytes(FORK.encode() + b"# caf\xe9\n")
    assert alarms(repo.findings()) == []


def test_histories_that_contradict_each_other_are_said(repo: Repo) -> None:
    repo.put("1/1..1/4 2/5..2/6 3/7..3/9").history(2, FORK).backup(2, 3, hour=10)
    repo.history(3, "1\t0/480000\tx\n2\t0/780000\tx\n")
    assert ("history_conflict", "critical") in {alarm[:2] for alarm in alarms(repo.findings())}
    repo.history(3, f"{FORK}2\t0/780000\tx\n")
    theirs = {2: (Switch(1, Lsn.parse("0/590000"), "x"),)}
    live = primary(0xA, timeline=3, last_archived=pages.name(9, 3), histories=theirs)
    assert ("history_conflict", "warning") in {alarm[:2] for alarm in alarms(repo.findings(live))}


def test_an_archive_full_of_holes_is_judged_in_time(repo: Repo) -> None:
    spans = [(n, n) for n in range(0, 400_000, 2)]
    bases = [Base(f"b{i}", 1, Lsn(i * SIZE + 40), Lsn(i * SIZE + 99), NOW, Lsn(i * SIZE + 40)) for i in range(0, 99, 2)]
    begin = time.process_time()
    found = judge(Case("main", Archive(SIZE, {1: Runs(spans)}), bases, NOW))
    assert found[0].severity == "critical" and time.process_time() - begin < 10


def test_without_a_backup_a_hole_is_still_said(repo: Repo) -> None:
    repo.put("1/1..1/5 1/7..1/9")
    assert alarms(repo.findings()) == [("hole", "warning", "lost", "1/6", "1/6")]
