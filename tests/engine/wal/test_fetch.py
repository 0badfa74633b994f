"""What restore_command answers: 0 delivered, 1 only for a proven end, 255 for a hole, a hazard and every error."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from engine.repository.layout import Layout
from engine.wal import archive, codec, fetch
from tests.engine.wal import pages

HISTORY_2_AT_BOUNDARY = "1\t0/500000\tafter LSN\n"
HISTORY_3 = "1\t0/580000\tx\n2\t0/5A0000\ty\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return pages.make_layout(tmp_path)


def fill(layout: Layout, *segments: tuple[int, int], histories: dict[int, str] | None = None) -> None:
    """Archive these (timeline, number) and the histories."""
    work = Path(layout.home, "work")
    work.mkdir()
    for timeline, number in segments:
        path = pages.put(work, number, timeline=timeline)
        archive.store(layout, path, os.path.basename(path))
    for timeline, text in (histories or {}).items():
        name = f"{timeline:08X}.history"
        (work / name).write_text(text)
        archive.store(layout, str(work / name), name)
    shutil.rmtree(work)


def get(layout: Layout, name: str, tmp_path: Path, **options: object) -> tuple[int, Path]:
    destination = tmp_path / "RECOVERYXLOG"
    destination.unlink(missing_ok=True)
    code = fetch.get(layout, name, str(destination), **options)  # type: ignore[arg-type]
    assert destination.exists() == (code == 0)
    return code, destination


def timeline(number: int, first: int, last: int, *without: int) -> list[tuple[int, int]]:
    return [(number, n) for n in range(first, last + 1) if n not in without]


class TestDelivery:
    @pytest.mark.parametrize("compression", codec.WRITABLE)
    def test_from_the_archive(self, layout: Layout, tmp_path: Path, compression: str) -> None:
        archive.store(layout, pages.put(tmp_path, 5), pages.name(5), compression=compression)
        code, there = get(layout, pages.name(5), tmp_path, system_id=pages.SYSTEM)
        assert code == 0
        assert there.read_bytes() == pages.content(5)
        assert there.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("queue", ["incoming", "streaming"])
    def test_from_the_queues(self, layout: Layout, tmp_path: Path, queue: str) -> None:
        pages.put(getattr(layout, queue), 5)
        code, there = get(layout, pages.name(5), tmp_path)
        assert (code, there.read_bytes()) == (0, pages.content(5))

    def test_a_history_file(self, layout: Layout, tmp_path: Path) -> None:
        fill(layout, (1, 4), histories={2: pages.HISTORY_2})
        code, there = get(layout, "00000002.history", tmp_path)
        assert (code, there.read_text()) == (0, pages.HISTORY_2)

    def test_a_destination_that_cannot_be_written(
        self, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(layout, (1, 4))
        assert fetch.get(layout, pages.name(4), str(tmp_path / "no" / "where")) == 255
        assert "No such file or directory" in capsys.readouterr().err


FORK = {2: pages.HISTORY_2}
"""Timeline 2 left 1 within segment 5."""
VECTORS = [
    # (what, segments, histories, asked, code)
    ("V1 the end of the only timeline", timeline(1, 1, 9), {}, (1, 10), 1),
    ("V3 a hole", timeline(1, 1, 9, 6), {}, (1, 6), 255),
    ("V3 a hole of several", timeline(1, 1, 9, 5, 6, 7), {}, (1, 6), 255),
    ("V5 before the first", timeline(1, 2, 9), {}, (1, 1), 255),
    ("V14 the parent's copy of the switch segment", timeline(1, 1, 4) + timeline(2, 5, 9), FORK, (1, 5), 1),
    ("V14 the end of the child", timeline(1, 1, 4) + timeline(2, 5, 9), FORK, (2, 10), 1),
    ("V16 branch hazard", timeline(1, 1, 5), FORK, (2, 5), 255),
    ("V16 branch hazard with later segments", timeline(1, 1, 5) + timeline(2, 6, 9), FORK, (2, 5), 255),
    ("V17 both copies missing", timeline(1, 1, 4) + timeline(2, 6, 9), FORK, (2, 5), 255),
    ("V18 the dead tail is an end for timeline 1", timeline(1, 1, 8) + timeline(2, 5, 9), FORK, (1, 9), 1),
    ("V18 and not in its middle", timeline(1, 1, 8, 6) + timeline(2, 5, 9), FORK, (1, 6), 255),
    ("needed by the child", timeline(1, 1, 3) + timeline(2, 5, 9), FORK, (1, 4), 255),
    ("needed by a child that has no WAL yet", timeline(1, 1, 3), FORK, (1, 4), 1),
    ("after the fork", timeline(1, 1, 4) + timeline(2, 5, 9), FORK, (1, 6), 1),
    ("at a boundary", timeline(1, 1, 3) + timeline(2, 5, 9), {2: HISTORY_2_AT_BOUNDARY}, (1, 4), 255),
    ("past a boundary", timeline(1, 1, 4) + timeline(2, 5, 9), {2: HISTORY_2_AT_BOUNDARY}, (1, 5), 1),
    ("a dead branch past a boundary", timeline(1, 1, 5), {2: HISTORY_2_AT_BOUNDARY}, (2, 5), 255),
    ("a grandparent's dead branch", [*timeline(1, 1, 5), (3, 6)], {**FORK, 3: HISTORY_3}, (3, 5), 255),
    ("a grandchild needs it", timeline(1, 1, 3) + timeline(3, 5, 6), {**FORK, 3: HISTORY_3}, (1, 4), 255),
    ("the child's first segment not there yet", timeline(1, 1, 4), FORK, (2, 5), 1),
    ("V24 timelines are hexadecimal", timeline(0xA, 1, 4), {}, (0xA, 5), 1),
    ("V27 the next log", [(1, 0xFFF), (1, 0x1001)], {}, (1, 0x1000), 255),
]


@pytest.mark.parametrize(
    ("segments", "histories", "asked", "code"), [row[1:] for row in VECTORS], ids=[row[0] for row in VECTORS]
)
def test_vectors(
    layout: Layout,
    tmp_path: Path,
    segments: list[tuple[int, int]],
    histories: dict[int, str],
    asked: tuple[int, int],
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(layout, *segments, histories=histories)
    assert get(layout, pages.name(asked[1], asked[0]), tmp_path)[0] == code
    said = capsys.readouterr().err
    assert said.count("\n") == (1 if code == 255 else 0)


def test_v13_a_partial_alone_is_a_hole_when_more_follows(layout: Layout, tmp_path: Path) -> None:
    fill(layout, *timeline(1, 1, 9, 6))
    Path(layout.wal(pages.name(6)) + ".partial").write_bytes(pages.content(6))
    assert get(layout, pages.name(6), tmp_path)[0] == 255


def test_absent_histories_are_1_while_the_archive_can_be_read(layout: Layout, tmp_path: Path) -> None:
    fill(layout, (1, 4))
    assert get(layout, "00000002.history", tmp_path)[0] == 1
    shutil.rmtree(layout.wals)
    assert get(layout, "00000002.history", tmp_path)[0] == 255


def test_an_empty_archive_proves_nothing(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(layout, pages.name(5), tmp_path)[0] == 255
    assert "mounted" in capsys.readouterr().err
    shutil.rmtree(layout.wals)
    assert get(layout, pages.name(5), tmp_path)[0] == 255


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short: 0 bytes"),
        (bytes(pages.SIZE), "zeros"),
        (pages.content(6)[: pages.SIZE // 2], "wrong size"),
        (pages.content(5), "misplaced"),
        (pages.content(6, system=pages.OTHER_SYSTEM), "belongs to the system"),
        (codec.compress(pages.content(6), "zstd")[:-3], "zstd"),
        (gzip.compress(pages.content(6))[:-3], "gzip"),
    ],
)
def test_v8_to_v11_what_cannot_be_used_is_255(
    layout: Layout, tmp_path: Path, data: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(layout, *timeline(1, 1, 6))
    Path(layout.wal(pages.name(6))).write_bytes(data)
    assert get(layout, pages.name(6), tmp_path, system_id=pages.SYSTEM)[0] == 255
    assert reason in capsys.readouterr().err


def test_v10_one_flipped_bit_in_a_compressed_segment_is_255(layout: Layout, tmp_path: Path) -> None:
    fill(layout, *timeline(1, 1, 6))
    place = Path(layout.wal(pages.name(6)))
    for at in (50, 1000, place.stat().st_size - 2):
        good = place.read_bytes()
        damaged = bytearray(good)
        damaged[at] ^= 1
        place.write_bytes(damaged)
        assert get(layout, pages.name(6), tmp_path, system_id=pages.SYSTEM)[0] == 255
        place.write_bytes(good)


def test_v30_another_clusters_later_segments_are_no_hole(layout: Layout, tmp_path: Path) -> None:
    fill(layout, *timeline(1, 1, 6))
    pages.put(os.path.dirname(layout.wal(pages.name(9))), 9, system=pages.OTHER_SYSTEM)
    assert get(layout, pages.name(7), tmp_path, system_id=pages.SYSTEM)[0] == 1
    assert get(layout, pages.name(7), tmp_path)[0] == 255


def test_segments_in_the_queues_count_as_later_ones(layout: Layout, tmp_path: Path) -> None:
    fill(layout, *timeline(1, 1, 3))
    pages.put(layout.streaming, 6)
    assert get(layout, pages.name(4), tmp_path)[0] == 255
    assert get(layout, pages.name(6), tmp_path)[0] == 0
    assert get(layout, pages.name(7), tmp_path)[0] == 1


def test_a_broken_history_file_proves_nothing(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(layout, *timeline(1, 1, 3))
    Path(layout.wals, "00000002.history").write_text("garbage\n")
    assert get(layout, pages.name(4), tmp_path)[0] == 255
    assert get(layout, "00000002.history", tmp_path)[0] == 255
    assert get(layout, "00000002.history", tmp_path, accept_gap=True)[0] == 255
    assert "00000002.history" in capsys.readouterr().err


def test_a_copy_of_an_older_timeline_than_the_one_before_is_no_hazard(layout: Layout, tmp_path: Path) -> None:
    """PostgreSQL never goes back to a timeline that it has left; only where it begins, it takes what there is."""
    forks = {2: pages.HISTORY_2, 3: pages.HISTORY_2 + "2\t0/700000\ty\n"}
    fill(layout, *timeline(1, 1, 8), *timeline(2, 5, 6), histories=forks)
    assert get(layout, pages.name(7, 3), tmp_path)[0] == 1
    assert get(layout, pages.name(7, 3), tmp_path, begins=True)[0] == 255
    pages.put(Path(layout.wal(pages.name(6, 2))).parent, 7, timeline=2)
    assert get(layout, pages.name(7, 3), tmp_path)[0] == 255


def test_a_history_is_contradicted_by_its_own_timelines_wal_only(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(layout, *timeline(1, 1, 5), *timeline(2, 5, 7), histories=FORK)
    early = Path(layout.wal(pages.name(4, 2)))
    for content in (pages.content(4, system=pages.OTHER_SYSTEM, timeline=2), pages.content(6)):
        early.write_bytes(content)
        assert get(layout, "00000002.history", tmp_path, system_id=pages.SYSTEM)[0] == 0
    for content in (pages.content(4), pages.content(4, timeline=2), bytes(pages.SIZE)):
        early.write_bytes(content)
        assert get(layout, "00000002.history", tmp_path, system_id=pages.SYSTEM)[0] == 255
        assert early.name in capsys.readouterr().err


def test_a_broken_history_that_recovery_has_passed_is_absent(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL has kept the history that it follows, and reads no older one."""
    fill(layout, *timeline(1, 1, 5), *timeline(2, 5, 7), histories={3: HISTORY_3})
    Path(layout.wals, "00000002.history").write_text("garbage\n")
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    (tmp_path / "data" / "recovery.signal").touch()
    monkeypatch.chdir(tmp_path / "data")
    asked = ("00000002.history", "pg_wal/RECOVERYHISTORY")
    assert fetch.get(layout, *asked) == 255
    Path("pg_wal/00000002.history").write_text(pages.HISTORY_2)
    assert fetch.get(layout, *asked) == 255
    capsys.readouterr()
    Path("pg_wal/00000003.history").write_text(HISTORY_3)
    assert fetch.get(layout, *asked) == 1
    assert not os.path.exists(asked[1])
    assert "recovery follows a newer timeline, and goes on without that file" in capsys.readouterr().err
    shutil.rmtree(os.path.dirname(layout.wal(pages.name(5, 2))))
    assert fetch.get(layout, pages.name(5, 2), "pg_wal/RECOVERYXLOG") == 255  # in which timeline 3 left it: a hazard
    os.unlink(layout.wal(pages.name(5)))
    assert fetch.get(layout, pages.name(5, 2), "pg_wal/RECOVERYXLOG") == 1
    assert fetch.get(layout, pages.name(5), "pg_wal/RECOVERYXLOG") == 1
    os.unlink("recovery.signal")
    assert fetch.get(layout, pages.name(5), "pg_wal/RECOVERYXLOG") == 255  # then nobody knows what is followed


def test_the_history_that_is_followed_tells_how_far_its_parents_wal_went(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(layout, *timeline(1, 1, 3), histories=FORK)
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")
    asked = (pages.name(4), "pg_wal/RECOVERYXLOG")
    Path("recovery.signal").touch()
    assert fetch.get(layout, *asked) == 1  # timeline 1 is followed, as far as is known
    Path("pg_wal/00000002.history").write_text(pages.HISTORY_2)
    assert fetch.get(layout, *asked) == 255
    assert "timeline 2, which is followed, goes on from it at 0/580000" in capsys.readouterr().err
    pages.put(Path(layout.wal(pages.name(3))).parent, 4)
    assert fetch.get(layout, pages.name(5, 2), asked[1]) == 1
    assert fetch.get(layout, pages.name(5), asked[1]) == 1


class TestOverrides:
    def test_a_standby_may_look_elsewhere(self, layout: Layout, tmp_path: Path) -> None:
        fill(layout, *timeline(1, 1, 9, 6))
        assert get(layout, pages.name(6), tmp_path, absent_on_hole=True)[0] == 1
        assert not os.path.exists(os.path.join(layout.own, "accepted-gaps.log"))

    def test_a_standby_of_an_archive_that_is_still_empty(self, layout: Layout, tmp_path: Path) -> None:
        assert get(layout, pages.name(6), tmp_path, absent_on_hole=True)[0] == 1

    def test_an_accepted_gap_ends_recovery_and_is_recorded(
        self, layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(layout, *timeline(1, 1, 9, 6))
        Path(layout.wal(pages.name(8))).write_bytes(b"damaged")
        assert get(layout, pages.name(6), tmp_path, accept_gap=True)[0] == 1
        assert get(layout, pages.name(8), tmp_path, accept_gap=True)[0] == 1
        assert "ACCEPTED" in capsys.readouterr().err
        record = Path(layout.own, "accepted-gaps.log").read_text().splitlines()
        assert [row.split("\t")[1] for row in record] == [pages.name(6), pages.name(8)]

    def test_a_record_that_cannot_be_made_does_not_stop_a_salvage(self, layout: Layout, tmp_path: Path) -> None:
        fill(layout, *timeline(1, 1, 9, 6))
        shutil.rmtree(layout.own)
        Path(layout.own).write_text("a file")
        assert get(layout, pages.name(6), tmp_path, accept_gap=True)[0] == 1

    @pytest.mark.parametrize("option", ["accept_gap", "absent_on_hole"])
    @pytest.mark.parametrize("later", [[], timeline(2, 6, 9)])
    def test_neither_replays_a_dead_branch(
        self, layout: Layout, tmp_path: Path, option: str, later: list[tuple[int, int]]
    ) -> None:
        fill(layout, *timeline(1, 1, 5), *later, histories=FORK)
        assert get(layout, pages.name(5, 2), tmp_path, **{option: True})[0] == 255

    def test_an_error_is_not_accepted(self, layout: Layout, tmp_path: Path) -> None:
        fill(layout, *timeline(1, 1, 5))
        shutil.rmtree(layout.wals)
        assert get(layout, pages.name(6), tmp_path, accept_gap=True)[0] == 255


def test_a_name_that_is_no_wal_files(layout: Layout, tmp_path: Path) -> None:
    assert get(layout, "../../etc/passwd", tmp_path)[0] == 255
