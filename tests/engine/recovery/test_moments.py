"""The transactions around a moment, and timelines as strands of time, on segments whose content is known."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engine.config import Server
from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.recovery.moments import Moments
from engine.recovery.strands import Strand, strands
from engine.wal import chart, index
from engine.wal.findings import gather
from engine.wal.judgement.values import Case
from tests.support import fleet as fleet_
from tests.support import pages
from tests.support.fleet import NOW, SEGMENT, SYSTEM, Fleet, every, segment_bytes

HOUR = timedelta(hours=1)
EARLIER = timedelta(seconds=7, microseconds=12)
TIMES = every(NOW - 30 * HOUR, NOW - HOUR, HOUR)


def case_of(server: Server) -> Case:
    return gather(server, now=NOW, ask_server=False, read_only=True, selected=(), told=Silent()).cases[0]


def moments_of(server: Server) -> Moments:
    case = case_of(server)
    line = chart.charted(case)[0]
    return Moments(server.layout, case.archive, tuple(line.pieces(line.good[0], line.good[-1])), SYSTEM)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    fleet = Fleet(tmp_path)
    made = fleet.server("main")
    fleet.segments(made, 100, TIMES)
    fleet.backup(made, TIMES[2], 102)
    return made


def around(moments: Moments, at: datetime) -> tuple[int | None, int | None]:
    found = moments.around(at)
    return (found.kept.xid if found.kept else None), (found.dropped.xid if found.dropped else None)


def test_the_commits_on_both_sides_of_a_moment(server: Server) -> None:
    moments = moments_of(server)
    for place in (0, 1, 13, 29):
        number = 100 + place
        assert around(moments, TIMES[place]) == (2 * number + 1, 2 * number + 2 if place < 29 else None)
        assert around(moments, TIMES[place] - timedelta(microseconds=1)) == (2 * number, 2 * number + 1)
    first = 2 * 100
    assert around(moments, TIMES[0] - HOUR) == (None, first)
    assert around(moments, TIMES[0] - EARLIER) == (first, first + 1)
    assert around(moments, NOW) == (2 * 129 + 1, None)


def test_what_drops_a_file_is_said_and_in_which_segment_replay_stops(server: Server) -> None:
    moments = moments_of(server)
    found = moments.around(TIMES[7] - EARLIER - timedelta(microseconds=1))
    assert found.dropped is not None and found.dropped.drops
    assert found.segment == "00000001000000000000006B"
    assert found.dropped.lsn == Lsn(107 * SEGMENT + 40)


def test_an_archive_that_is_not_indexed_tells_nothing(server: Server) -> None:
    Path(server.layout.index).unlink()
    moments = moments_of(server)
    assert around(moments, TIMES[5]) == (None, None)
    assert moments.beats(TIMES[0], TIMES[-1], 100) == ()


def test_beats_are_every_commit_of_a_short_period_and_some_of_a_long_one(server: Server) -> None:
    moments = moments_of(server)
    assert moments.beats(TIMES[4] - EARLIER, TIMES[5], 100) == (
        TIMES[4] - EARLIER,
        TIMES[4],
        TIMES[5] - EARLIER,
        TIMES[5],
    )
    every_one = moments.beats(TIMES[0] - HOUR, NOW, 1000)
    assert len(every_one) == 60 and every_one[0] == TIMES[0] - EARLIER and every_one[-1] == TIMES[-1]
    few = moments.beats(TIMES[0] - HOUR, NOW, 10)
    assert 3 <= len(few) <= 10 and set(few) <= set(every_one)
    assert moments.beats(NOW, NOW + HOUR, 10) == ()


def strands_of(server: Server) -> tuple[Strand, ...]:
    return strands(server.layout, case_of(server))


def test_one_timeline_is_one_strand_until_its_last_commit(server: Server) -> None:
    (only,) = strands_of(server)
    assert (only.timeline, only.parent, only.left, only.primary) == (1, None, None, True)
    assert [(reach.begin, reach.end, reach.broken) for reach in only.reaches] == [(TIMES[2], TIMES[-1], False)]


def test_a_gap_ends_a_reach_and_a_backup_behind_it_begins_another(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    made = fleet.server("main")
    fleet.segments(made, 100, TIMES, range(110, 112))
    fleet.backup(made, TIMES[2], 102)
    fleet.backup(made, TIMES[15], 115)
    (only,) = strands_of(made)
    assert [(reach.begin, reach.end, reach.broken) for reach in only.reaches] == [
        (TIMES[2], TIMES[9], True),
        (TIMES[15], TIMES[-1], False),
    ]


def test_a_fork_is_dated_by_the_promotion_and_the_old_timeline_keeps_its_end(server: Server) -> None:
    fork, promoted = 120, TIMES[20] - timedelta(minutes=20)
    said = [pages.Promoted(promoted, 2, 1), *fleet_.ends(fork, promoted + timedelta(minutes=1))]
    for number, content in ((fork, said), (fork + 1, fleet_.ends(fork + 1, promoted + HOUR))):
        path = Path(server.layout.wal(f"0000000200000000000000{number:02X}"))
        path.parent.mkdir(exist_ok=True)
        held = said if number > fork else fleet_.ends(fork - 1, TIMES[fork - 101])
        before = pages.last_record(number - 1, held, SEGMENT)
        path.write_bytes(segment_bytes(2, number, content, before))
    Path(server.layout.wals, "00000002.history").write_text(f"1\t{Lsn(fork * SEGMENT)}\tx\n")
    index.catch_up(server.layout)
    old, new = strands_of(server)
    assert (new.timeline, new.parent, new.left) == (2, 1, promoted)
    assert [(reach.begin, reach.end) for reach in new.reaches] == [(TIMES[2], promoted + HOUR)]
    assert [(reach.begin, reach.end) for reach in old.reaches] == [(TIMES[2], TIMES[-1])]
