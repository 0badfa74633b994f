"""Charts: each segment's state, the worst of many together, and where the gaps are."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from engine.event import Silent
from engine.postgres.lsn import Lsn
from engine.wal import accepted, chart
from engine.wal.findings import gather
from engine.wal.judgement.values import Case
from tests.engine.wal.judgement.archive_of import NOW, Repo
from tests.engine.wal.pages import SIZE, name


def case_of(repo: Repo) -> Case:
    return gather(repo.server, now=NOW, ask_server=False, read_only=True, selected=(), told=Silent()).cases[0]


def chart_of(repo: Repo, timeline: int = 0) -> chart.Chart:
    case = case_of(repo)
    found = chart.charted(case)
    line = next(line for line in found if timeline in (0, line.timeline))
    return chart.chart(case, line)


def test_each_segment_has_its_state(tmp_path: Path) -> None:
    repo = Repo(tmp_path).put("1/2..1/4 1/8..1/9")
    repo.backup(2, 2, hour=10)
    repo.path(1, 6).write_bytes(bytes(SIZE))
    accepted.accept(repo.layout, accepted.Accepted(name(7), name(7), "burnt", datetime.now(timezone.utc)))
    found = chart_of(repo)
    assert (found.timeline, found.first, found.last) == (1, 2, 9)
    assert [found.state(n) for n in range(1, 11)] == [
        chart.NOT_YET,
        chart.ARCHIVED,
        chart.ARCHIVED,
        chart.ARCHIVED,
        chart.LOST,
        found.state(6),
        chart.ACCEPTED,
        chart.ARCHIVED,
        chart.ARCHIVED,
        chart.NOT_YET,
    ]
    assert found.state(6) & (chart.BAD | chart.LOST)
    assert list(found.gaps.spans()) == [(5, 7)]
    assert found.gap_at(6) == (0, (5, 7)) and found.gap_at(4) is None
    assert found.number(name(6)) == 6 and found.number(name(6, 2)) is None
    assert found.start(3) == Lsn(3 * SIZE)


def test_a_file_that_satisfies_nothing_is_bad(tmp_path: Path) -> None:
    repo = Repo(tmp_path).put("1/2..1/4").put("1/5", of=9).put("1/6..1/7")
    repo.backup(2, 2, hour=10)
    found = chart_of(repo)
    assert [found.state(n) for n in range(4, 8)] == [chart.ARCHIVED, chart.BAD, chart.ARCHIVED, chart.ARCHIVED]


def test_a_lineage_is_charted_under_the_names_that_recovery_asks_for(tmp_path: Path) -> None:
    repo = Repo(tmp_path).put("1/2..1/7 2/5..2/8").history(2, f"1\t{Lsn(5 * SIZE + 40)}\tx\n")
    repo.backup(2, 2, hour=10)
    case = case_of(repo)
    assert [line.timeline for line in chart.charted(case)] == [2, 1]
    newer, older = (chart.chart(case, line) for line in chart.charted(case))
    assert [newer.name(n) for n in (4, 5, 8)] == [name(4), name(5, 2), name(8, 2)]
    assert (newer.first, newer.last, older.last) == (2, 8, 7)
    assert older.name(7) == name(7)


def test_an_empty_archive_has_an_empty_chart(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    assert chart.charted(case_of(repo)) == []


@given(
    st.binary(min_size=1, max_size=300), st.integers(0, 40), st.integers(0, 6), st.integers(-8, 40), st.integers(1, 70)
)
def test_a_cell_is_all_of_its_segments_together(states: bytes, offset: int, level: int, row: int, count: int) -> None:
    made = chart.Chart(1, SIZE, offset, states, (), chart.Runs(), chart.cells(states, offset, 7), 0)
    first = row << level
    expected = []
    for cell in range(count):
        together = 0
        for number in range(first + (cell << level), first + ((cell + 1) << level)):
            together |= made.state(number)
        expected.append(together)
    assert list(made.row(level, first, count)) == expected
