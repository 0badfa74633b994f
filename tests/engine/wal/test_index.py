"""The index of an archive of real WAL: complete whatever the order, derived, and harmless when it is broken."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Busy
from engine.event import Silent
from engine.postgres import walfile
from engine.postgres.segment import segment_name
from engine.repository import locks
from engine.repository.layout import Layout
from engine.wal import codec, index, reading, soundness
from tests.engine.wal import pages
from tests.support import wal
from tests.support.cluster import Install
from tests.support.waiting import until

ALL = 1 << 40


class Told(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def note(self, text: str, level: str = "info") -> None:
        self.notes.append((level, text))


@pytest.fixture(scope="module")
def written(postgres: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, wal.Dump]]:
    """Real segments of 1 MB with a commit across two of them, and what pg_waldump makes of them."""
    place = tmp_path_factory.mktemp("written")
    with wal.server(postgres, 1) as cluster:
        wal.write_everything(cluster)
        wal.cut_commit(cluster)
        cluster.sql("SELECT pg_switch_wal()")
        files = wal.segments(cluster)[:-1]
        theirs = wal.dump(postgres, files)
        for path in files:
            shutil.copy(path, place)
    yield place, theirs


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout("main", str(tmp_path / "main"))
    for directory in made.directories():
        os.makedirs(directory, exist_ok=True)
    return made


def archive(layout: Layout, source: Path, names: list[str], compression: str = "none") -> None:
    for name in names:
        place = layout.wal(name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        Path(place).write_bytes(codec.compress((source / name).read_bytes(), compression))


def names_of(source: Path) -> list[str]:
    return sorted(os.listdir(source))


def all_rows(layout: Layout) -> list[index.SegmentRow]:
    return index.rows(layout, 1, 0, ALL)


def test_the_index_counts_what_pg_waldump_counts(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, theirs = written
    names = names_of(source)
    archive(layout, source, names, "zstd")
    assert index.catch_up(layout) == len(names)
    found = all_rows(layout)
    assert [row.name for row in found] == names
    assert sum(row.n_commits + row.n_aborts for row in found) == len(theirs.ends)
    assert sum(row.n_drops for row in found) == sum(end[4] and end[3].startswith("commit") for end in theirs.ends)
    assert all(row.complete and row.problem is None for row in found)
    assert all(row.size == os.stat(layout.wal(row.name)).st_size for row in found)
    points = index.events(layout, index.RESTORE_POINT)
    assert [(point.name, point.value) for point in points] == [(name, None) for _, name in theirs.restore_points]
    assert len(index.events(layout, index.BACKUP_END)) == 1
    assert len(index.events(layout)) > len(points)
    assert index.highest_time(layout, 1, 0, ALL) == max(row.max_commit for row in found if row.max_commit)
    assert index.catch_up(layout) == 0


def test_any_order_of_arrival_gives_the_same_rows(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)
    shuffled = names[:]
    random.Random(4).shuffle(shuffled)
    for start in range(0, len(shuffled), 9):
        archive(layout, source, shuffled[start : start + 9])
        index.catch_up(layout)
    by_pieces = all_rows(layout)
    events = index.events(layout)
    assert index.rebuild(layout) == len(names)
    assert all_rows(layout) == by_pieces
    assert index.events(layout) == events
    assert [row.joined for row in by_pieces[1:]] == [1] * (len(names) - 1)


def test_what_is_gone_changed_or_broken_is_noticed(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    index.catch_up(layout)
    os.unlink(layout.wal(names[0]))
    shutil.copy(source / names[3], layout.wal(names[2]))
    Path(layout.wal(names[4])).write_bytes(bytes(1 << 20))
    Path(layout.wal(names[5])).write_bytes((source / names[5]).read_bytes()[:70_000])
    assert index.catch_up(layout) >= 3
    bad = {segment_name(timeline, number, 1 << 20): why for (timeline, number), why in index.problems(layout).items()}
    assert bad[names[2]].startswith("misplaced: ")
    assert bad[names[4]] == "invalid magic number 0000"
    assert bad[names[5]].startswith("wrong size: ")
    assert sorted(bad) == [names[2], names[4], names[5]]
    assert names[0] not in {row.name for row in all_rows(layout)}
    shutil.rmtree(os.path.dirname(layout.wal(names[0])))
    index.catch_up(layout)
    assert all_rows(layout) == []
    assert index.events(layout) == []


def test_files_that_come_back_with_the_time_of_their_directory_are_read(
    layout: Layout, written: tuple[Path, wal.Dump]
) -> None:
    """As a snapshot or a copy brings them back."""
    names = sorted(path.name for path in written[0].iterdir())
    archive(layout, written[0], names)
    directory = os.path.dirname(layout.wal(names[0]))
    long_ago = os.stat(directory).st_mtime_ns - 10**12
    os.utime(directory, ns=(long_ago, long_ago))
    index.catch_up(layout, budget=60)
    assert index.rows(layout, 1, 0, ALL)
    for name in names:
        os.rename(layout.wal(name), f"{layout.home}/{name}")
    index.catch_up(layout, budget=60)
    assert not index.rows(layout, 1, 0, ALL)
    for name in names:
        os.rename(f"{layout.home}/{name}", layout.wal(name))
    os.utime(directory, ns=(long_ago, long_ago))
    index.catch_up(layout, budget=60)
    assert len(index.rows(layout, 1, 0, ALL)) == len(names)


def test_another_systems_wal_is_alien(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    Path(layout.identity).write_text('{"systemid": "7", "version": "18"}')
    archive(layout, source, names_of(source)[:1])
    index.catch_up(layout)
    assert all_rows(layout)[0].problem.startswith("alien: ")


@pytest.mark.parametrize("damage", ["noise", "cut", "no tables", "other version"])
def test_a_broken_index_is_made_anew_and_told(layout: Layout, written: tuple[Path, wal.Dump], damage: str) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    index.catch_up(layout)
    good = all_rows(layout)
    path = Path(layout.index)
    if damage == "noise":
        path.write_bytes(os.urandom(50_000))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:9000])
    else:
        database = sqlite3.connect(path)
        database.executescript("DROP TABLE segment" if damage == "no tables" else "PRAGMA user_version = 99")
        database.close()
    assert all_rows(layout) == []
    told = Told()
    for name in names:
        os.utime(layout.wal(name))
    assert index.catch_up(layout, report=told) == len(names)
    assert any("made anew" in text for _, text in told.notes)
    assert [row._replace(mtime_ns=0) for row in all_rows(layout)] == [row._replace(mtime_ns=0) for row in good]


def test_a_missing_index_says_nothing_and_hurts_nobody(layout: Layout) -> None:
    assert all_rows(layout) == []
    assert index.events(layout) == []
    assert index.problems(layout) == {}
    assert index.highest_time(layout, 1, 0, ALL) is None
    assert not os.path.exists(layout.index)
    shutil.rmtree(layout.home)
    assert index.catch_up(layout) == 0


def test_a_budget_stops_early_and_the_next_pass_goes_on(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    assert index.catch_up(layout, budget=0) == 0
    passes = 0
    done = 0
    while done < len(names) and passes < 1000:
        done += index.catch_up(layout, budget=0.01)
        passes += 1
    assert passes > 1
    assert len(all_rows(layout)) == len(names)


def test_one_writer_at_a_time_and_readers_never_wait(
    layout: Layout, written: tuple[Path, wal.Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    with locks.hold(os.path.join(layout.own, "wal-index.lock")):
        told = Told()
        assert index.catch_up(layout, budget=0.1, report=told) == 0
        assert any(str(os.getpid()) in text for _, text in told.notes)
    monkeypatch.setattr(index, "_LOCK_WAIT", 0.1)
    with pytest.raises(Busy), locks.hold(os.path.join(layout.own, "wal-index.lock")):
        index.catch_up(layout)

    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(len(all_rows(layout)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        index.rebuild(layout)
    finally:
        stop.set()
        reader.join(30)
    assert all_rows(layout)[-1].name == names[-1]
    assert set(seen) <= set(range(len(names) + 1))


@pytest.mark.parametrize("compression", ["none", "zstd", "gzip"])
def test_large_segments_are_read_apart_and_tell_the_same(
    layout: Layout, written: tuple[Path, wal.Dump], compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names, compression)
    cut = Path(layout.wal(names[3]))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    index.rebuild(layout)
    held = all_rows(layout)
    assert [row.name for row in held if row.problem] == [names[3]]
    mapped = []
    monkeypatch.setattr(codec, "LARGE", 1 << 19)
    monkeypatch.setattr(codec, "map_file", lambda *a, whole=codec.map_file: mapped.append(a) or whole(*a))
    index.rebuild(layout)
    assert len(mapped) >= len(names) - 1
    assert [(row.name, row.last_record_lsn, row.n_commits) for row in all_rows(layout)] == [
        (row.name, row.last_record_lsn, row.n_commits) for row in held
    ]
    assert [row.name for row in all_rows(layout) if row.problem] == [names[3]]


def test_a_killed_writer_leaves_an_index_that_goes_on(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    script = (
        "import os, sys\n"
        "from engine.repository.layout import Layout\n"
        "from engine.wal import index, indexer, reading\n"
        "read, left = reading.Reader.read, [7]\n"
        "def die(*a, **how):\n"
        "    left[0] -= 1\n"
        "    return read(*a, **how) if left[0] else os.kill(os.getpid(), 9)\n"
        "reading.Reader.read = die\n"
        "indexer._BATCH_SECONDS = 0\n"
        "index.catch_up(Layout('main', sys.argv[1]))\n"
    )
    died = subprocess.run([sys.executable, "-c", script, layout.home], check=False)
    assert died.returncode == -9
    assert 0 < len(all_rows(layout)) < len(names)
    assert index.catch_up(layout) == len(names) - 6
    by_two = all_rows(layout)
    index.rebuild(layout)
    assert all_rows(layout) == by_two


@pytest.mark.parametrize("run", [1, 2, 5])
def test_several_processes_find_what_one_finds(
    layout: Layout, written: tuple[Path, wal.Dump], monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    source, _ = written
    names = names_of(source)
    others = children(os.getpid())
    archive(layout, source, names, "zstd")
    for at, damage in ((2, lambda data: bytes(len(data))), (5, lambda data: data[:-9]), (7, flipped), (9, None)):
        place = Path(layout.wal(names[at]))
        if damage is None:
            place.unlink()
        else:
            place.write_bytes(damage((source / names[at]).read_bytes()))
    monkeypatch.setattr(reading, "processes", lambda: 1)
    assert index.rebuild(layout) >= len(names) - 1
    by_one = everything(layout)
    monkeypatch.setattr(reading, "processes", lambda: 3)
    monkeypatch.setattr(reading, "_RUN", run)
    monkeypatch.setattr(reading, "_WORTH", 1)
    assert index.rebuild(layout) >= len(names) - 1
    assert everything(layout) == by_one
    assert children(os.getpid()) <= others


def test_when_the_processes_die_the_rest_is_read_all_the_same(
    layout: Layout, written: tuple[Path, wal.Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = written
    names = names_of(source)
    others = children(os.getpid())
    archive(layout, source, names)
    index.rebuild(layout)
    by_one = everything(layout)
    monkeypatch.setattr(reading, "processes", lambda: 2)
    monkeypatch.setattr(reading, "_RUN", 1)
    monkeypatch.setattr(reading, "_WORTH", 1)
    ask = reading._Process.ask

    def ask_the_dying(process: reading._Process, before: list[str], run: list[str], prove: float) -> None:
        if run[0] >= names[6]:
            for child in children(os.getpid()) - others:
                os.kill(child, signal.SIGKILL)
        ask(process, before, run, prove)

    monkeypatch.setattr(reading._Process, "ask", ask_the_dying)
    assert index.rebuild(layout) >= len(names)
    assert everything(layout) == by_one
    assert children(os.getpid()) <= others


def test_readers_end_with_who_started_them(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    archive(layout, source, names_of(source))
    script = (
        "import sys\n"
        "from engine.repository.layout import Layout\n"
        "from engine.wal import reading\n"
        "reading._RUN = reading._WORTH = 1\n"
        "reads = reading.many(Layout('main', sys.argv[1]), None, sys.argv[2:], lambda: 1.0, 2)\n"
        "print(next(reads) and 'read', flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", script, layout.home, *names_of(source)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asks:
        assert asks.stdout is not None
        asks.stdout.readline()
        readers = children(asks.pid)
        assert len(readers) == 2
        asks.kill()
    until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in readers), what="the readers' end")


def flipped(data: bytes) -> bytes:
    """Return a segment with one bit of a record changed."""
    return data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:]


def everything(layout: Layout) -> list[list[tuple[object, ...]]]:
    """Return every row of the index, however it came there."""
    with contextlib.closing(sqlite3.connect(layout.index)) as database:
        tables = ("SELECT * FROM segment ORDER BY name", "SELECT * FROM event ORDER BY timeline, lsn, kind")
        return [database.execute(query).fetchall() for query in tables]


def children(parent: int) -> set[int]:
    """Return the processes that a process has started and that have not ended."""
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def test_a_reader_without_the_right_to_write_reads(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    archive(layout, source, names_of(source)[:2])
    index.catch_up(layout)
    os.chmod(layout.index, 0o440)
    os.chmod(layout.own, 0o550)
    try:
        assert len(all_rows(layout)) == 2
    finally:
        os.chmod(layout.own, 0o750)


def test_other_files_in_the_archive_are_left_alone(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    name = names_of(source)[0]
    archive(layout, source, [name])
    directory = os.path.dirname(layout.wal(name))
    for other in (f"{name}.partial", f"{name}.00000028.backup", ".tmp.1234", "00000002.history", "notes"):
        Path(directory, other).write_bytes(b"x")
    Path(layout.wals, "00000002.history").write_bytes(b"1\t0/1000000\tx\n")
    Path(layout.wals, "main-xlog.db").write_bytes(b"")
    assert index.catch_up(layout) == 1
    assert [row.name for row in all_rows(layout)] == [name]
    assert walfile.major_of(all_rows(layout)[0].magic) is not None


def test_a_record_that_fills_segments_is_proven_where_it_ends(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)
    archive(layout, source, names)
    index.catch_up(layout, budget=60, report=Told(), prove=60)
    rows = all_rows(layout)
    assert not any(row.problem for row in rows)
    middle = next(at for at, row in enumerate(rows) if row.rem_len and row.last_record_lsn is None)
    end = next(row.name for row in rows[middle + 1 :] if row.last_record_lsn is not None)
    data = bytearray((source / names[middle]).read_bytes())
    data[len(data) // 2 + 100] ^= 1
    replace(layout, names[middle], bytes(data))
    index.catch_up(layout, budget=60, report=Told(), prove=60)
    (bad,) = [row for row in all_rows(layout) if row.problem]
    assert (bad.name, "the checksum of a record of 3" in (bad.problem or "")) == (end, True)
    assert "the checksum of a record" in (soundness.judge(layout, end, (source / end).read_bytes(), None).problem or "")
    replace(layout, names[middle], (source / names[middle]).read_bytes())
    index.catch_up(layout, budget=60, report=Told(), prove=60)
    assert not any(row.problem for row in all_rows(layout))


def test_what_nobody_verified_is_counted_until_it_is(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    names = names_of(source)[:4]
    archive(layout, source, names)
    index.catch_up(layout, prove=0)
    assert index.unproven(layout) == len(names)
    index.catch_up(layout, prove=60)
    assert index.unproven(layout) == 0


def replace(layout: Layout, name: str, data: bytes) -> None:
    """Put another file under a name, as a copy does: its directory changes as well."""
    new = Path(layout.wal(name) + ".new")
    new.write_bytes(data)
    new.rename(layout.wal(name))


def test_the_last_record_is_one_that_is_whole(postgres: Install, written: tuple[Path, wal.Dump]) -> None:
    source, _ = written
    for name in names_of(source)[-8:]:
        data = (source / name).read_bytes()
        found = walfile.walk(data, walfile.read_header(data)).last_record_lsn
        last = wal.dump(postgres, [source / name]).last  # it sees none that began in the segment before
        assert not last or str(found) == last, name


def test_numbers_that_the_database_cannot_hold_end_no_pass(layout: Layout, written: tuple[Path, wal.Dump]) -> None:
    """One bit of a record that nobody verifies can make such a number, and a name can ask for such an address."""
    source, _ = written
    changed = 0
    for name in names_of(source):
        data = bytearray((source / name).read_bytes())
        header = walfile.read_header(data)
        for checkpoint in walfile.walk(bytes(data), header).checkpoints:
            at = data.find(int(checkpoint.redo).to_bytes(8, "little"), checkpoint.lsn - header.address)
            if at >= 0:
                data[at + 7] ^= 0x80
                changed += 1
        os.makedirs(os.path.dirname(layout.wal(name)), exist_ok=True)
        Path(layout.wal(name)).write_bytes(data)
    far = [pages.name(1 << 43), pages.name((1 << 44) - 1)]
    for name, number in zip(far, (1 << 43, (1 << 44) - 1), strict=True):
        os.makedirs(os.path.dirname(layout.wal(name)), exist_ok=True)
        Path(layout.wal(name)).write_bytes(pages.content(number))
    index.catch_up(layout, prove=0)
    assert changed
    indexed = {row.name: row for row in index.rows(layout, 1, 0, 1 << 44)}
    assert set(indexed) == {*names_of(source), *far}
    assert all(
        "no server's WAL reaches" in str(indexed[name].problem) or "alien" in str(indexed[name].problem) for name in far
    )
