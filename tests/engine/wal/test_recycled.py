"""Archived files of incoming/ that the next segments are written over, and the ones that must not be."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Server
from engine.errors import CellarmanError
from engine.repository import identity
from engine.repository.layout import Layout
from engine.wal import codec, push, receipt, recycled
from engine.wal.archive import Stored
from engine.wal.ingest import ingest
from engine.wal.reconcile import reconcile
from engine.wal.settings import Settings
from tests.engine.wal import pages

COMMAND = [sys.executable, "-c", "import sys; from tests.engine.wal.test_recycled import push_one; push_one(sys.argv)"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = pages.make_layout(tmp_path)
    identity.write(made, pages.SYSTEM, 15)
    (tmp_path / "pg_wal").mkdir()
    return made


def push_one(argv: list[str]) -> None:
    layout = Layout("main", argv[1])
    push.push(_settings(layout), argv[2])


def _settings(layout: Layout) -> Settings:
    return Settings(layout, "zstd", None, 5)


def _push(layout: Layout, number: int) -> None:
    source = pages.put(Path(layout.home).parents[1] / "pg_wal", number)
    assert push.push(_settings(layout), source) == Stored(pages.name(number), pages.SIZE, pages.SIZE)


def _pass(layout: Layout) -> None:
    assert ingest(Server("main", os.path.dirname(layout.home))).refused == ()


def _queued(layout: Layout, number: int) -> Path:
    return Path(layout.incoming, pages.name(number))


def _kept(layout: Layout) -> list[Path]:
    return sorted(Path(layout.own, "recycled").glob(".*"))


def _inode(path: str | Path) -> int:
    return os.stat(path).st_ino


def test_a_segment_is_written_over_an_archived_one(layout: Layout) -> None:
    _push(layout, 5)
    first = _inode(_queued(layout, 5))
    _pass(layout)
    assert [_inode(path) for path in _kept(layout)] == [first]
    _push(layout, 6)
    assert _inode(_queued(layout, 6)) == first
    assert _queued(layout, 6).read_bytes() == pages.content(6)
    assert (_kept(layout), os.listdir(layout.incoming)) == ([], [pages.name(6)])
    _pass(layout)
    assert [codec.read_segment(layout.wal(pages.name(n))) for n in (5, 6)] == [pages.content(n) for n in (5, 6)]


def test_the_newest_is_taken_so_that_a_surplus_grows_old(layout: Layout) -> None:
    for number in (5, 6):
        pages.put(layout.incoming, number)
    newest = _inode(_queued(layout, 6))
    _pass(layout)
    assert len(_kept(layout)) == 2
    _push(layout, 7)
    assert _inode(_queued(layout, 7)) == newest


def test_what_comes_over_ssh_uses_them_too_and_is_cut_to_its_size(layout: Layout, tmp_path: Path) -> None:
    pages.put(layout.incoming, 5)
    first = _inode(_queued(layout, 5))
    _pass(layout)
    with _kept(layout)[0].open("ab") as file:
        file.write(b"more than a segment")
    source = pages.put(tmp_path, 6)
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout.split()[0]
    with open(source, "rb") as stream:
        receipt.receive(_settings(layout), pages.name(6), digest, stream.fileno())
    assert _inode(_queued(layout, 6)) == first
    assert _queued(layout, 6).read_bytes() == pages.content(6)


class TestNeverWrittenOver:
    """A file that somebody still reads, or could, keeps its content for them."""

    def _another_is_pushed(self, layout: Layout, first: int) -> None:
        _push(layout, 6)
        assert _inode(_queued(layout, 6)) != first
        assert _queued(layout, 6).read_bytes() == pages.content(6)

    def test_one_that_is_open_elsewhere(self, layout: Layout) -> None:
        _push(layout, 5)
        words = ["tail", "-f", "-c", "+1", str(_queued(layout, 5))]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdout.read(10) == pages.content(5)[:10]
            first = _inode(_queued(layout, 5))
            _pass(layout)
            self._another_is_pushed(layout, first)
            assert reader.stdout.read(pages.SIZE - 10) == pages.content(5)[10:]
            reader.kill()

    def test_one_that_is_mapped(self, layout: Layout) -> None:
        _push(layout, 5)
        with _queued(layout, 5).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        first = _inode(_queued(layout, 5))
        _pass(layout)
        self._another_is_pushed(layout, first)
        assert mapped[:] == pages.content(5)
        mapped.close()

    def test_one_with_another_name(self, layout: Layout, tmp_path: Path) -> None:
        _push(layout, 5)
        _pass(layout)
        first = _inode(_kept(layout)[0])
        os.link(_kept(layout)[0], tmp_path / "linked")
        self._another_is_pushed(layout, first)
        assert (tmp_path / "linked").read_bytes() == pages.content(5)

    def test_one_that_had_another_name_when_it_was_archived(self, layout: Layout, tmp_path: Path) -> None:
        _push(layout, 5)
        os.link(_queued(layout, 5), tmp_path / "linked")
        _pass(layout)
        assert _kept(layout) == []

    def test_one_of_another_size(self, layout: Layout) -> None:
        _push(layout, 5)
        _pass(layout)
        first = _inode(_kept(layout)[0])
        os.truncate(_kept(layout)[0], pages.SIZE // 2)
        self._another_is_pushed(layout, first)


class TestRoom:
    def test_what_no_segment_comes_for_is_removed(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        _push(layout, 5)
        _pass(layout)
        _pass(layout)
        assert len(_kept(layout)) == 1
        monkeypatch.setattr(recycled, "_UNUSED", 0.0)
        _pass(layout)
        assert _kept(layout) == []

    def test_no_more_is_kept_than_may_be(self, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recycled, "_MOST", 2 * pages.SIZE)
        for number in range(1, 6):
            pages.put(layout.incoming, number)
        _pass(layout)
        assert (len(_kept(layout)), os.listdir(layout.incoming)) == (2, [])
        monkeypatch.setattr(recycled, "_MOST", pages.SIZE)
        _pass(layout)
        assert _kept(layout) == []

    def test_it_is_given_back_before_a_pass_that_lacks_it(
        self, layout: Layout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _push(layout, 5)
        _pass(layout)
        pages.put(layout.incoming, 6)
        os.unlink(layout.wal(pages.name(5)))
        os.rmdir(os.path.dirname(layout.wal(pages.name(5))))
        Path(os.path.dirname(layout.wal(pages.name(5)))).write_text("in the way")  # so that nothing can be archived
        monkeypatch.setattr(recycled, "_MOST", 0)  # as when the disk is full
        with pytest.raises(CellarmanError, match="cannot archive"):
            ingest(Server("main", os.path.dirname(layout.home)))
        assert _kept(layout) == []


@pytest.mark.parametrize("crash_at", ["push.copied", "push.linked", "push.synced"])
def test_a_kill_while_one_is_written_over_loses_nothing(layout: Layout, crash_at: str) -> None:
    _push(layout, 5)
    _pass(layout)
    source = pages.put(Path(layout.home).parents[1] / "pg_wal", 6)
    words = [*COMMAND, layout.home, source]
    killed = subprocess.run(words, env={**os.environ, "CELLARMAN_CRASH_AT": crash_at}, check=False)
    assert killed.returncode == -signal.SIGKILL
    subprocess.run(words, check=True)
    reconcile(layout, wait=1, young=0)
    assert os.listdir(layout.incoming) == [pages.name(6)]
    _pass(layout)
    assert [codec.read_segment(layout.wal(pages.name(n))) for n in (5, 6)] == [pages.content(n) for n in (5, 6)]


def test_many_pushers_beside_passes_never_share_one(layout: Layout, tmp_path: Path) -> None:
    """Eight segments at once, time and again, over what the passes between them leave."""
    for start in range(1, 25, 8):
        sources = [pages.put(tmp_path / "pg_wal", number) for number in range(start, start + 8)]
        waiting = [subprocess.Popen([*COMMAND, layout.home, source]) for source in sources]
        while any(process.poll() is None for process in waiting):
            _pass(layout)
        assert [process.returncode for process in waiting] == [0] * 8
    _pass(layout)
    assert [codec.read_segment(layout.wal(pages.name(n))) for n in range(1, 25)] == [
        pages.content(n) for n in range(1, 25)
    ]
