"""The walk of WAL segments, against pg_waldump of every PostgreSQL here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.postgres import walfile
from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from tests.support import wal
from tests.support.cluster import Cluster, Install


@dataclass
class Walked(wal.Dump):
    """The same facts as pg_waldump's, by our own walk, with the facts of each segment."""

    facts: list[walfile.SegmentFacts] = field(default_factory=list)


def walk(files: list[Path]) -> Walked:
    found = Walked()
    carry: walfile.Carry | None = None
    for path in files:
        data = path.read_bytes()
        header = walfile.read_header(data)
        facts = walfile.walk(data, header, carry)
        found.ends += [
            (str(Lsn(c.lsn)), c.xid, pg_time(c.timestamp).strftime("%Y-%m-%d %H:%M:%S.%f"), c.kind, c.drops)
            for c in walfile.commits(data, header, carry)
        ]
        found.restore_points += [(str(point.lsn), point.name) for point in facts.restore_points]
        found.checkpoints += [(str(point.lsn), str(point.redo), point.shutdown) for point in facts.checkpoints]
        found.backup_ends += [(str(end.lsn), str(end.start_lsn)) for end in facts.backup_ends]
        found.promotions += [str(end.lsn) for end in facts.end_of_recovery]
        found.switches += facts.switched
        found.last = str(facts.last_record_lsn) if facts.last_record_lsn else found.last
        found.facts.append(facts)
        carry = facts.carry
    return found


def assert_same(mine: Walked, theirs: wal.Dump) -> None:
    for name in ("ends", "restore_points", "checkpoints", "backup_ends", "promotions", "switches", "last"):
        assert getattr(mine, name) == getattr(theirs, name), name


def test_small_segments_read_as_pg_waldump_reads_them(each_postgres: Install) -> None:
    with wal.server(each_postgres, 1, wal_log_hints="on") as cluster:
        wal.write_everything(cluster)
        files = wal.segments(cluster)
        mine = walk(files)
        assert_same(mine, wal.dump(each_postgres, files))
    assert {end[3] for end in mine.ends} == {"commit", "abort", "commit_prepared", "abort_prepared"}
    assert any(end[4] for end in mine.ends)
    assert all(facts.complete for facts in mine.facts[:-1])
    assert mine.facts[-1].ended_by == "zeros"


@pytest.mark.parametrize("megabytes", [16, 64])
def test_larger_segments_read_as_pg_waldump_reads_them(postgres: Install, megabytes: int) -> None:
    with wal.server(postgres, megabytes) as cluster:
        wal.write_everything(cluster)
        files = wal.segments(cluster)
        assert walfile.read_header(files[0].read_bytes()[:40]).segment_size == megabytes << 20
        assert_same(walk(files), wal.dump(postgres, files))


def test_a_commit_cut_by_the_segments_end_belongs_to_the_next_one(each_postgres: Install) -> None:
    with wal.server(each_postgres, 1) as cluster:
        lsn = wal.cut_commit(cluster)
        files = wal.segments(cluster)
        mine = walk(files)
        assert_same(mine, wal.dump(each_postgres, files))
    [cut] = [number for number, facts in enumerate(mine.facts) if facts.carry and facts.carry.data]
    assert mine.facts[cut].carry.lsn == mine.facts[cut + 1].last_commit_lsn == lsn


def test_without_what_the_segment_before_left_only_its_record_is_lost(postgres: Install) -> None:
    with wal.server(postgres, 1) as cluster:
        wal.write_everything(cluster)
        files = wal.segments(cluster)
        mine = walk(files)
        for path, facts in zip(files, mine.facts, strict=True):
            data = path.read_bytes()
            header = walfile.read_header(data)
            alone = list(walfile.commits(data, header))
            whole = facts.n_commits + facts.n_aborts
            assert whole - len(alone) in (0, 1)
            assert whole == len(alone) or header.rem_len


def test_a_promotions_first_segment_is_of_two_timelines(each_postgres: Install) -> None:
    with wal.server(each_postgres, 1, restore_command="false") as cluster:
        wal.pgbench(cluster, "-i", "-s", "1", "-q")
        promote(cluster)
        cluster.sql("CREATE TABLE after_promotion (a int)")
        files = wal.segments(cluster)
        second = [path for path in files if path.name.startswith("00000002")]
        first = [path for path in files if path.name.startswith("00000001") and path.name[8:] < second[0].name[8:]]
        mine = walk([*first, *second])
        assert_same(walk(first), wal.dump(each_postgres, first))
        header = walfile.read_header(second[0].read_bytes())
        assert header.timeline == 1
        assert mine.facts[-1].last_timeline == 2
        promotions = [end for facts in mine.facts for end in facts.end_of_recovery]
        assert [(end.timeline, end.previous) for end in promotions] == [(2, 1)]
        assert walfile.check_segment(second[0].name, header, system_id=header.system_id, size=1 << 20) is None


def promote(cluster: Cluster) -> None:
    cluster.stop()
    (cluster.data / "standby.signal").touch()
    cluster.start()
    cluster.install.run("pg_ctl", "-D", str(cluster.data), "-w", "promote")


def test_a_record_that_a_crash_cut_is_passed_over(each_postgres: Install) -> None:
    with wal.server(each_postgres, 1) as cluster:
        cluster.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("INSERT INTO t VALUES (2)")
        cut = cluster.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        cluster.sql("SELECT pg_logical_emit_message(false, 'x', repeat('q', 1200000))")
        cluster.sql("INSERT INTO t VALUES (9)")  # its commit flushes all before it
        cluster.stop("immediate")
        for path in (cluster.data / "pg_wal").glob("0" * 7 + "1*"):
            if path.name > cut:
                path.unlink()
        cluster.start()
        cluster.sql("INSERT INTO t VALUES (3)")
        files = wal.segments(cluster)
        mine = walk(files)
        assert "overwrite" in cluster.log.lower() or any(
            struct.unpack_from("<H", path.read_bytes(), 2)[0] & 0x8 for path in files
        )
        assert_same(mine, wal.dump(each_postgres, files))
        assert all(facts.complete for facts in mine.facts[:-1])


def test_a_torn_archive_ends_where_it_is_torn(postgres: Install) -> None:
    with wal.server(postgres, 1) as cluster:
        wal.pgbench(cluster, "-i", "-s", "1", "-q")
        data = wal.segments(cluster)[-3].read_bytes()
        older = wal.segments(cluster)[-4].read_bytes()
    header = walfile.read_header(data)
    half = len(data) // 2
    whole = walfile.walk(data, header)
    assert whole.ended_by == "end"

    zeros = walfile.walk(data[:half] + bytes(half), header)
    assert zeros.ended_by == "zeros"
    assert header.address < zeros.end_lsn <= header.address + half

    stale = walfile.walk(data[:half] + older[half:], header)
    assert stale.ended_by.startswith("unexpected page address")
    assert stale.end_lsn == zeros.end_lsn

    short = walfile.walk(data[:half], header)
    assert short.ended_by == "the file is cut short"

    noise = walfile.walk(data[:half] + b"\xa5" * half, header)
    assert noise.ended_by == "invalid magic number A5A5"


def test_a_damaged_length_never_makes_up_commits(postgres: Install) -> None:
    with wal.server(postgres, 1) as cluster:
        wal.pgbench(cluster, "-i", "-s", "1", "-q")
        wal.pgbench(cluster, "-c", "1", "-t", "1500")
        written = [path.read_bytes() for path in wal.segments(cluster)[:-1]]
    data = max(written, key=lambda data: walfile.walk(data, walfile.read_header(data)).n_commits)
    header = walfile.read_header(data)
    real = set(walfile.commits(data, header))
    assert len(real) > 500
    for position in range(8192 * 3 + 100, len(data), 39_989):
        broken = bytearray(data)
        broken[position] ^= 0x5A
        facts = walfile.walk(bytes(broken), header)
        invented = {c.lsn for c in walfile.commits(bytes(broken), header)} - {c.lsn for c in real}
        assert not invented, (position, facts.ended_by)


def test_what_is_no_segment_is_refused_with_the_reason() -> None:
    for data, reason in (
        (b"", "too short"),
        (bytes(8192), "invalid magic number 0000"),
        (struct.pack("<HHIQI4xQII", 0xD118, 0, 1, 0, 0, 1, 1 << 24, 8192), "no long header"),
        (struct.pack("<HHIQI4xQII", 0xD118, 2, 1, 0, 0, 1, 12345, 8192), "segments of 12345 bytes"),
        (struct.pack("<HHIQI4xQII", 0xD118, 2, 1, 0, 0, 1, 1 << 24, 77), "pages of 77 bytes"),
    ):
        with pytest.raises(walfile.WalFormatError, match=reason):
            walfile.read_header(data)


def test_a_segment_is_told_from_an_alien_a_misplaced_and_a_truncated_one() -> None:
    header = walfile.read_header(struct.pack("<HHIQI4xQII", 0xD118, 6, 2, 5 << 24, 0, 77, 1 << 24, 8192))

    def verdict(name: str, system_id: int | None = 77, size: int = 1 << 24) -> str:
        return (walfile.check_segment(name, header, system_id=system_id, size=size) or "good").partition(":")[0]

    assert verdict("000000020000000000000005") == "good"
    assert verdict("000000020000000000000005.partial") == "good"
    assert verdict("000000030000000000000005", system_id=None) == "good"
    assert verdict("000000010000000000000005") == "wrong timeline"
    assert verdict("000000020000000000000006") == "misplaced"
    assert verdict("000000020000000000000105") == "misplaced"
    assert verdict("000000020000000000000005", system_id=78) == "alien"
    assert verdict("000000020000000000000005", size=8 << 20) == "wrong size"
