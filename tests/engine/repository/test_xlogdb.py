"""xlog.db: Barman's index of WAL, of all ages and in all states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.repository import xlogdb
from engine.repository.layout import Layout
from engine.repository.xlogdb import Line
from tests.engine.repository.catalogues import BARMAN, archive, empty, python, segments

INDEXES = sorted(BARMAN.glob("*/*-xlog.db"))
SEVEN = Line("000000010000000000000007", 701, 1795340820.000964, "zstd")


@pytest.mark.parametrize("path", INDEXES, ids=lambda path: path.parent.name)
def test_what_barman_wrote_is_written_back_byte_for_byte(path: Path) -> None:
    index = xlogdb.parse(path.read_text())
    assert "".join(line.render() for line in index.lines) == path.read_text()
    assert not index.problems and len(index.lines) > 4


def test_older_lines_have_fewer_columns_and_any_white_space() -> None:
    text = (
        "000000010000000000000005 493430 1795340806.25\n"
        "000000010000000000000006\t16516\t17\tgzip\n"
        "00000002.history 1 2 None gpg\n"
    )
    lines = xlogdb.parse(text).lines
    assert [(line.time, line.compression, line.encryption) for line in lines] == [
        (1795340806.25, None, None),
        (17.0, "gzip", None),
        (2.0, None, "gpg"),
    ]


def test_bad_lines_are_told_and_passed_over() -> None:
    text = SEVEN.render() + "\ngarbage\n../x\t1\t1\tNone\tNone\n" + "0000000100000000000000FF\tx\t1\n" + SEVEN.render()
    index = xlogdb.parse(text)
    assert index.lines == [SEVEN, SEVEN]
    assert [problem.split(":")[0] for problem in index.problems] == ["line 2", "line 3", "line 4", "line 5"]


@given(st.text())
def test_no_index_kills_the_reader(text: str) -> None:
    xlogdb.parse(text)


def test_appending_makes_barmans_lines(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    xlogdb.append(layout, [SEVEN])
    xlogdb.append(layout, [Line("00000002.history", 32, 1795341297.6156852, "none")])
    assert Path(layout.xlogdb).read_text() == (
        "000000010000000000000007\t701\t1795340820.000964\tzstd\tNone\n"
        "00000002.history\t32\t1795341297.6156852\tNone\tNone\n"
    )
    assert xlogdb.read(layout).lines[1].compression is None


@pytest.mark.parametrize("cut", [1, 5, 20, 30, 55])
def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next(tmp_path: Path, cut: int) -> None:
    layout = empty(tmp_path)
    whole = SEVEN.render()
    Path(layout.xlogdb).write_text(whole + whole[:cut])
    eight = SEVEN._replace(name="000000010000000000000008")
    xlogdb.append(layout, [eight])
    index = xlogdb.read(layout)
    assert not index.problems
    assert index.lines in ([SEVEN, eight], [SEVEN, SEVEN, eight])


def test_a_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    Path(layout.xlogdb).write_text(SEVEN.render().rstrip("\n"))
    xlogdb.append(layout, [SEVEN])
    assert xlogdb.read(layout).lines == [SEVEN, SEVEN]


def test_an_index_of_before_barman_3_13_is_taken_over(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    Path(layout.old_xlogdb).write_text("000000010000000000000005\t493430\t1795340806.25\tgzip\n")
    assert xlogdb.read(layout).lines[0].compression == "gzip"
    xlogdb.append(layout, [SEVEN])
    assert [line.name[-1] for line in xlogdb.read(layout).lines] == ["5", "7"]
    assert not os.path.exists(layout.old_xlogdb)


def test_rebuilding_follows_the_disk(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    names = segments(1, 5, 7)
    archive(layout, *names, "00000002.history", "000000010000000000000005.00000028.backup")
    Path(layout.xlogdb).write_text("garbage\n" + SEVEN._replace(name="0000000100000000000000AA").render())
    encrypted = Path(layout.wal("000000010000000000000008"))
    encrypted.write_bytes(b"PGP")
    Path(layout.wal("000000010000000000000009.partial")).write_bytes(b"x")
    Path(layout.wals, "0000000100000000", "notes.txt").write_text("mine")
    os.utime(encrypted, (1795340806.25, 1795340806.25))
    lines = xlogdb.rebuild(layout, lambda head: "pgp" if head == b"PGP" else "none")
    assert xlogdb.read(layout).lines == lines
    assert [line.name for line in lines] == sorted(
        [*names, "000000010000000000000005.00000028.backup", "000000010000000000000008", "00000002.history"]
    )
    assert Line("000000010000000000000008", 3, 1795340806.25, None, "gpg") in lines


def kill_while_rewriting(layout: Layout, at: str) -> None:
    code = (
        "import sys; from engine.repository import xlogdb; from engine.repository.layout import Layout\n"
        "layout = Layout('main', sys.argv[1]); xlogdb.rewrite(layout, xlogdb.read(layout).lines[1:])"
    )
    process = python(code, layout.home, CELLARMAN_CRASH_AT=at)
    assert process.wait(30) == -9
    process.communicate()


def test_a_crash_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    layout = empty(tmp_path)
    archive(layout, *segments(1, 1, 3))
    kill_while_rewriting(layout, "xlogdb.temporary-written")
    assert len(xlogdb.read(layout).lines) == 3
    kill_while_rewriting(layout, "xlogdb.renamed")
    assert len(xlogdb.read(layout).lines) == 2
    xlogdb.rewrite(layout, [])
    assert xlogdb.read(layout) == ([], [])


def test_a_server_without_wal_has_an_empty_index(tmp_path: Path) -> None:
    layout = Layout("main", str(tmp_path / "nowhere"))
    assert xlogdb.read(layout) == ([], []) and not list(xlogdb.archived(layout))
