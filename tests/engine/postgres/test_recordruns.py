"""Records many at a time, against the same records one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import google_crc32c
import pytest

from engine.postgres import recordruns, walfile, walrecord
from engine.postgres.recordcheck import RecordCheck, Tail
from tests.support import wal
from tests.support.cluster import Install


@pytest.fixture(scope="module")
def written(each_postgres: Install) -> list[bytes]:
    """Consecutive segments of 1 MiB with every kind of record that recovery cares about, and many small ones."""
    with wal.server(each_postgres, 1, wal_log_hints="on") as cluster:
        wal.write_everything(cluster)
        cluster.sql("CREATE TABLE small (n int)")
        cluster.sql("DO $$ BEGIN FOR n IN 1..30000 LOOP INSERT INTO small VALUES (n); COMMIT; END LOOP; END $$")
        cluster.sql("DO $$ BEGIN FOR n IN 1..5000 LOOP INSERT INTO small VALUES (n); ROLLBACK; END LOOP; END $$")
        cluster.sql("SELECT pg_logical_emit_message(false, 'long', repeat('x', 3000000))")
        wal.pgbench(cluster, "-i", "-s", "1", "-q")
        return [path.read_bytes() for path in wal.segments(cluster)]


def one_by_one(data: bytes, carry: walfile.Carry | None) -> tuple[walfile.SegmentFacts, None]:
    return walfile.walk(data, walfile.read_header(data), carry), None


def together(data: bytes, carry: walfile.Carry | None) -> tuple[walfile.SegmentFacts, recordruns.Runs | None]:
    return recordruns.walk(data, walfile.read_header(data), carry)


def verdict(
    data: bytes, found: tuple[walfile.SegmentFacts, recordruns.Runs | None], tail: Tail | None
) -> tuple[str | None, Tail | None]:
    facts, runs = found
    header = walfile.read_header(data)
    records = RecordCheck(tail)
    return records.segment(data, header, facts.end_lsn - header.address, runs), records.tail


def walks(segments: list[bytes]) -> Iterator[tuple[bytes, walfile.Carry | None, Tail | None]]:
    carry, tail = None, None
    for data in segments:
        yield data, carry, tail
        found = one_by_one(data, carry)
        carry, tail = found[0].carry, verdict(data, found, tail)[1]


def test_they_tell_the_same(written: list[bytes]) -> None:
    whole = ends = 0
    for data, carry, tail in walks(written):
        facts, runs = together(data, carry)
        assert facts == one_by_one(data, carry)[0]
        assert verdict(data, (facts, runs), tail) == verdict(data, (facts, None), tail)
        assert runs is None or facts.complete
        whole += runs is not None
        ends = max(ends, facts.n_commits)
    assert whole > len(written) / 2
    assert ends > 3000


def test_a_segment_that_is_read_first_tells_the_same(written: list[bytes]) -> None:
    for data in written:
        assert together(data, None)[0] == one_by_one(data, None)[0]


def test_no_damage_is_missed_or_made_up(written: list[bytes]) -> None:
    seeded = random.Random(20)
    bad = good = 0
    for data, carry, tail in walks(written):
        for _ in range(30):
            damaged = bytearray(data)
            at = seeded.randrange(walfile.HEADER_SIZE, len(data))
            count = seeded.choice((1, 1, 8, 700))
            damaged[at : at + count] = seeded.randbytes(len(damaged[at : at + count]))
            changed = bytes(damaged)
            found = together(changed, carry)
            assert found[0] == one_by_one(changed, carry)[0], at
            problem = verdict(changed, found, tail)
            assert problem == verdict(changed, (found[0], None), tail), at
            bad += problem[0] is not None
            good += problem[0] is None
    assert bad > good / 10 > 0


def test_one_wrong_bit_in_a_record_among_thousands_is_found(written: list[bytes]) -> None:
    data = max(written, key=lambda data: one_by_one(data, None)[0].n_commits)
    header = walfile.read_header(data)
    commits = [c.lsn - header.address for c in walfile.commits(data, header) if c.kind == "commit"]
    for begin in commits[:: len(commits) // 40]:
        damaged = bytearray(data)
        damaged[begin + 28] ^= 1  # of its time
        facts, runs = together(bytes(damaged), None)
        assert runs is not None and not runs.are_right()
        assert "checksum of a record of 34 bytes" in str(verdict(bytes(damaged), (facts, runs), None)[0])


def test_an_address_that_no_server_reaches_is_left_to_the_walk(written: list[bytes]) -> None:
    data = bytearray(max(written, key=lambda data: one_by_one(data, None)[0].n_commits))
    for page in range(0, len(data), walfile.PAGE):
        data[page + 15] |= 0x80
    facts, runs = together(bytes(data), None)
    assert runs is None
    assert facts == one_by_one(bytes(data), None)[0]


def test_a_record_that_does_not_follow_the_one_before_ends_the_walk_as_it_ends_a_recovery(written: list[bytes]) -> None:
    """Whatever it says, and although its own checksum is right."""
    data = max(written, key=lambda data: one_by_one(data, None)[0].n_commits)
    header = walfile.read_header(data)
    commit = [c.lsn - header.address for c in walfile.commits(data, header)][100]
    begin = int.from_bytes(data[commit + 8 : commit + 16], "little") - header.address
    length = int.from_bytes(data[begin : begin + 4], "little")
    damaged = bytearray(data)
    assert damaged[begin + 17] > walrecord.TABLESPACE and begin // walfile.PAGE == (begin + length) // walfile.PAGE
    damaged[begin + 8] ^= 8
    checksum = google_crc32c.value(bytes(damaged[begin + 24 : begin + length]))
    damaged[begin + 20 : begin + 24] = google_crc32c.extend(checksum, bytes(damaged[begin : begin + 20])).to_bytes(
        4, "little"
    )
    facts, runs = together(bytes(damaged), None)
    assert runs is None and facts == one_by_one(bytes(damaged), None)[0]
    assert (facts.end_lsn, facts.ended_by) == (
        begin + header.address,
        "a record that does not follow the one before it",
    )
