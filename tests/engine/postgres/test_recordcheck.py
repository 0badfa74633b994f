"""Checksums of real WAL records, and of damaged ones."""

from __future__ import annotations

import random

from engine.postgres import walfile
from engine.postgres.recordcheck import NOTHING, RecordCheck
from tests.engine.wal import pages
from tests.support.cluster import Install, running


def check(
    data: bytes, records: RecordCheck, carry: walfile.Carry | None = None
) -> tuple[str | None, walfile.SegmentFacts]:
    header = walfile.read_header(data)
    facts = walfile.walk(data, header, carry)
    return records.segment(data, header, facts.end_lsn - header.address), facts


def test_real_records_are_good_and_damaged_ones_are_not(each_postgres: Install) -> None:
    with running(each_postgres) as cluster:
        cluster.install.run("pgbench", "-i", "-q", "-s", "3", cluster.conninfo)
        cluster.install.run("pgbench", "-t", "300", "-n", cluster.conninfo)
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql("SELECT txid_current()")
        now = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        names = sorted(p.name for p in (cluster.data / "pg_wal").iterdir() if len(p.name) == 24 and p.name < now)
        contents = [(cluster.data / "pg_wal" / name).read_bytes() for name in names]
    assert len(contents) > 1
    records, carry = RecordCheck(), None
    for content in contents:
        problem, facts = check(content, records, carry)
        assert problem is None and facts.complete
        carry = facts.carry

    # Any later segment can be the first one that is looked at.
    assert check(contents[1], RecordCheck())[0] is None
    seeded, found = random.Random(4711), 0
    for _ in range(40):
        damaged = bytearray(contents[0])
        damaged[seeded.randrange(8192, len(damaged))] ^= 1 << seeded.randrange(8)
        problem, facts = check(bytes(damaged), RecordCheck())
        found += problem is not None or not facts.complete
    assert found >= 38  # padding and some page header fields carry no information


def test_a_gap_is_begun_anew() -> None:
    records = RecordCheck()
    records.lose()
    header = walfile.SegmentHeader(0xD110, 2, 1, 0, 0, 1, 1 << 20, 8192)  # type: ignore[arg-type]
    assert records.segment(bytes(1 << 20), header, 0) is None


def test_a_segment_that_does_not_go_on_where_the_one_before_ended_is_not_taken_for_a_good_one() -> None:
    """What it continues would be read as a record of 2 GB, and nothing of it be verified."""
    data = bytearray(pages.filled(3, 1, noise=b"xxxx"))
    data[16:20] = (40).to_bytes(4, "little")
    data[40:80] = b"x" * 40
    records = RecordCheck(NOTHING)
    problem, _ = check(bytes(data), records)
    assert problem is not None and "continues 40 bytes" in problem
    assert records.tail is None
