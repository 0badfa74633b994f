"""One pass over the queues: taken or kept with a reason, never lost, wherever it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.config import Server
from engine.errors import Busy, CellarmanError
from engine.event import Level, Silent
from engine.repository import identity, locks, xlogdb
from engine.wal import codec
from engine.wal.ingest import IngestResult, finished, ingest, queued
from tests.engine.wal import pages


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str, level: Level = "info") -> None:
        self.notes.append(text)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    made = pages.make_layout(tmp_path)
    return Server("main", os.path.dirname(made.home), archiver=True, lock_timeout=5)


def lines(server: Server) -> list[str]:
    return [line.name for line in xlogdb.read(server.layout).lines]


def kept(server: Server) -> list[str]:
    return sorted(os.listdir(server.layout.errors))


def archived(server: Server, number: int) -> bytes:
    return codec.read_segment(server.layout.wal(pages.name(number)))


def test_an_empty_queue_is_an_empty_result(server: Server) -> None:
    assert ingest(server) == IngestResult()


def test_both_queues_are_taken_in_order_and_emptied(server: Server) -> None:
    layout = server.layout
    for number in range(1, 41):
        pages.put(layout.incoming if number % 2 else layout.streaming, number)
    pages.put(layout.streaming, 50)
    result = ingest(server)
    assert list(result.stored) == [pages.name(number) for number in [*range(1, 41), 50]] == lines(server)
    assert result.bytes_in == 41 * pages.SIZE
    assert 0 < result.bytes_out < result.bytes_in
    assert os.listdir(layout.incoming) == []
    assert os.listdir(layout.streaming) == [pages.name(50)]
    assert all(archived(server, number) == pages.content(number) for number in range(1, 41))


def test_a_file_in_both_queues_is_archived_once(server: Server) -> None:
    pages.put(server.layout.incoming, 5)
    for number in (5, 6):
        pages.put(server.layout.streaming, number)
    result = ingest(server)
    assert (result.stored, result.duplicates) == ((pages.name(5), pages.name(6)), (pages.name(5),))
    assert lines(server) == [pages.name(5), pages.name(6)]
    assert os.listdir(server.layout.incoming) == []


class TestStreaming:
    @pytest.mark.parametrize(
        ("present", "taken"),
        [
            (["1", "2", "3.partial"], ["1", "2"]),
            (["1", "2"], ["1"]),
            (["1"], []),
            (["1.partial", "2.partial", "3"], ["1.partial", "3"]),
            ([], []),
        ],
    )
    def test_the_newest_stays_where_pg_receivewal_goes_on(self, present: list[str], taken: list[str]) -> None:
        def full(short: str) -> str:
            number, dot, rest = short.partition(".")
            return pages.name(int(number)) + dot + rest

        assert finished(map(full, present)) == list(map(full, taken))

    def test_the_newest_complete_one_is_archived_and_left_there(self, server: Server) -> None:
        layout = server.layout
        pages.put(layout.streaming, 5)
        assert ingest(server).stored == (pages.name(5),)
        assert os.listdir(layout.streaming) == [pages.name(5)]
        assert ingest(server) == IngestResult()
        Path(layout.streaming, f"{pages.name(6)}.partial").write_bytes(pages.content(6))
        assert ingest(server).duplicates == (pages.name(5),)
        assert os.listdir(layout.streaming) == [f"{pages.name(6)}.partial"]
        assert lines(server) == [pages.name(5)]

    def test_after_a_switch_the_old_timelines_partial_is_archived(self, server: Server) -> None:
        layout = server.layout
        Path(layout.streaming, f"{pages.name(5)}.partial").write_bytes(pages.content(5))
        Path(layout.streaming, f"{pages.name(5, 2)}.partial").write_bytes(pages.content(5, timeline=2))
        Path(layout.streaming, "00000002.history").write_text(pages.HISTORY_2)
        result = ingest(server)
        assert result.stored == (f"{pages.name(5)}.partial", "00000002.history")
        assert os.listdir(layout.streaming) == [f"{pages.name(5, 2)}.partial"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "data", "word", "reason"),
        [
            (pages.name(5), pages.content(5, system=pages.OTHER_SYSTEM), "alien", "belongs to the system"),
            (pages.name(5), pages.content(5)[:5000], "damaged", "wrong size"),
            (pages.name(5), bytes(pages.SIZE), "damaged", "zeros"),
            (pages.name(5), pages.content(6), "damaged", "misplaced"),
            ("notes.txt", b"hello", "unknown", "not the name of a WAL"),
            ("x" * 255, b"hello", "unknown", "not the name of a WAL"),
            ("new\nline\x1b[2J", b"hello", "unknown", "not the name of a WAL"),
            (os.fsdecode(b"\xff\xfe"), b"hello", "unknown", "not the name of a WAL"),
        ],
    )
    def test_it_is_kept_with_its_reason_and_the_rest_goes_on(
        self, server: Server, name: str, data: bytes, word: str, reason: str
    ) -> None:
        identity.write(server.layout, pages.SYSTEM, 15)
        Path(server.layout.incoming, name).write_bytes(data)
        pages.put(server.layout.incoming, 7)
        told = Told()
        result = ingest(server, told, settle=0)
        assert result.stored == (pages.name(7),)
        (refusal,) = result.refused
        assert refusal.name == name
        assert reason in refusal.reason
        assert refusal.kept_at.endswith(f".{word}")
        assert Path(refusal.kept_at).read_bytes() == data
        assert reason in Path(refusal.kept_at + ".reason.txt").read_text()
        assert any(reason in note for note in told.notes)
        assert os.listdir(server.layout.incoming) == []
        assert len(kept(server)) == 2

    def test_a_conflict_keeps_both(self, server: Server) -> None:
        pages.put(server.layout.incoming, 5)
        ingest(server)
        for seed in (1, 2):
            pages.put(server.layout.incoming, 5, seed=seed)
            (refusal,) = ingest(server).refused
            assert refusal.kept_at.endswith(".duplicate")
            assert Path(refusal.kept_at).read_bytes() == pages.content(5, seed=seed)
        assert archived(server, 5) == pages.content(5)
        assert len(kept(server)) == 4
        assert lines(server) == [pages.name(5)]

    def test_a_second_cluster_within_one_first_pass_is_alien(self, server: Server) -> None:
        pages.put(server.layout.incoming, 5)
        pages.put(server.layout.incoming, 6, system=pages.OTHER_SYSTEM)
        result = ingest(server)
        assert result.stored == (pages.name(5),)
        assert result.refused[0].kept_at.endswith(".alien")

    def test_errors_on_another_file_system_is_fine(self, server: Server, another_file_system: Path) -> None:
        os.rmdir(server.layout.errors)
        os.symlink(another_file_system, server.layout.errors)
        Path(server.layout.incoming, "notes.txt").write_bytes(b"hello")
        (refusal,) = ingest(server).refused
        assert Path(refusal.kept_at).read_bytes() == b"hello"
        assert os.listdir(server.layout.incoming) == []

    def test_links_and_pipes_are_no_wal(self, server: Server, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(pages.content(5))
        os.symlink(secret, os.path.join(server.layout.incoming, pages.name(5)))
        os.mkfifo(os.path.join(server.layout.incoming, pages.name(6)))
        os.mkdir(os.path.join(server.layout.incoming, "lost+found"))
        result = ingest(server, settle=0)
        assert [refusal.name for refusal in result.refused] == [pages.name(5), pages.name(6)]
        assert os.listdir(server.layout.incoming) == ["lost+found"]
        assert secret.exists()


class TestArriving:
    def test_what_is_still_being_written_waits_for_the_next_pass(self, server: Server) -> None:
        path = Path(server.layout.incoming, pages.name(5))
        path.write_bytes(pages.content(5)[: pages.SIZE // 2])
        result = ingest(server)
        assert (result.arriving, result.refused) == ((pages.name(5),), ())
        path.write_bytes(pages.content(5))
        assert ingest(server).stored == (pages.name(5),)

    def test_dot_files_and_tmp_are_nobodys_business(self, server: Server) -> None:
        for name in (".rsync-000000010000000000000005.x", "000000010000000000000005.tmp"):
            Path(server.layout.incoming, name).write_bytes(b"half")
        assert queued(server.layout) == []


def test_a_pass_beside_another_waits_with_a_bound(server: Server) -> None:
    pages.put(server.layout.incoming, 5)
    with locks.hold(server.layout.lock("archive-wal")), pytest.raises(Busy, match="archive the WAL of main"):
        ingest(server, wait=0.1)
    assert ingest(server).stored == (pages.name(5),)


def test_two_passes_at_once_take_each_file_once(server: Server) -> None:
    for number in range(1, 31):
        pages.put(server.layout.incoming, number)
    results: list[IngestResult] = []
    threads = [threading.Thread(target=lambda: results.append(ingest(server))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for result in results for name in result.stored) == [pages.name(n) for n in range(1, 31)]
    assert sorted(lines(server)) == [pages.name(n) for n in range(1, 31)]


def test_an_archive_that_takes_no_more_keeps_what_it_has_and_leaves_the_rest(server: Server) -> None:
    for number in range(1, 6):
        pages.put(server.layout.incoming, number)
    directory = os.path.dirname(server.layout.wal(pages.name(1)))
    Path(directory).write_text("a file where the directory should be")
    with pytest.raises(CellarmanError, match="cannot archive"):
        ingest(server)
    assert sorted(os.listdir(server.layout.incoming)) == [pages.name(n) for n in range(1, 6)]
    assert pages.temporaries(server.layout) == []
    os.unlink(directory)
    assert len(ingest(server).stored) == 5


STEPS = (
    "wal.temp-created",
    "wal.temp-written",
    "wal.locked",
    "wal.renamed",
    "wal.directory-synced",
    "wal.line-appended",
    "wal.source-removed",
    "xlogdb.temporary-written",
)


@pytest.mark.parametrize("crash_at", STEPS)
def test_a_kill_at_any_step_loses_nothing_and_the_next_pass_converges(server: Server, crash_at: str) -> None:
    layout = server.layout
    for number in range(1, 8):
        pages.put(layout.incoming, number)
    Path(layout.incoming, "00000002.history").write_text(pages.HISTORY_2)
    if crash_at.startswith("xlogdb"):
        _pass_in_a_process(server, "wal.renamed")  # so that there is an index to rewrite
    assert _pass_in_a_process(server, crash_at) == -signal.SIGKILL
    for number in range(1, 8):
        somewhere = (Path(layout.incoming, pages.name(number)), Path(layout.wal(pages.name(number))))
        assert any(p.exists() and codec.read_segment(str(p)) == pages.content(number) for p in somewhere)
    assert _pass_in_a_process(server) == 0
    assert sorted(lines(server)) == sorted(["00000002.history", *(pages.name(n) for n in range(1, 8))])
    assert all(archived(server, number) == pages.content(number) for number in range(1, 8))
    assert os.listdir(layout.incoming) == []
    assert kept(server) == []


def _pass_in_a_process(server: Server, crash_at: str = "") -> int:
    script = (
        "import sys; from engine.config import Server; from engine.wal.ingest import ingest\n"
        "ingest(Server('main', sys.argv[1]), settle=0)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, server.barman_home],
        env={**os.environ, "CELLARMAN_CRASH_AT": crash_at},
        check=False,
    ).returncode
