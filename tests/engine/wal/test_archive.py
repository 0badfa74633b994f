"""One file into the archive: durable or refused, whoever else pushes, wherever it is killed, however full the disk."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import Busy, CellarmanError
from engine.repository import identity, locks, xlogdb
from engine.repository.layout import Layout
from engine.wal import archive, codec, reconcile, temporary
from tests.engine.wal import pages

STEPS = (
    "wal.temp-created",
    "wal.temp-written",
    "wal.locked",
    "wal.renamed",
    "wal.directory-synced",
    "wal.line-appended",
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return pages.make_layout(tmp_path)


def lines(layout: Layout) -> list[str]:
    return [line.name for line in xlogdb.read(layout).lines]


def store(layout: Layout, path: str, name: str = "", **options: object) -> object:
    return archive.store(layout, path, name or os.path.basename(path), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", codec.WRITABLE)
def test_a_segment_is_archived_as_barman_lays_it_out(layout: Layout, tmp_path: Path, compression: str) -> None:
    source = pages.put(tmp_path, 5)
    os.chmod(source, 0o600)
    os.utime(source, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    outcome = store(layout, source, compression=compression)
    place = Path(layout.wals, pages.name(5)[:16], pages.name(5))
    assert outcome == archive.Stored(pages.name(5), pages.SIZE, place.stat().st_size)
    assert codec.read_segment(str(place)) == pages.content(5)
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert xlogdb.read(layout).lines == [
        xlogdb.Line(
            pages.name(5),
            place.stat().st_size,
            1_700_000_000_123_456_789 / 1e9,
            None if compression == "none" else compression,
            None,
        )
    ]
    assert os.path.exists(source)
    assert pages.temporaries(layout) == []


def test_the_same_content_twice_is_fine_in_any_compression(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    store(layout, source, compression="gzip")
    assert store(layout, source, compression="zstd") == archive.Duplicate(pages.name(5))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(pages.content(5)))
    assert store(layout, str(packed), pages.name(5)) == archive.Duplicate(pages.name(5))
    assert lines(layout) == [pages.name(5)]


def test_other_content_under_the_same_name_is_a_conflict(layout: Layout, tmp_path: Path) -> None:
    store(layout, pages.put(tmp_path, 5))
    with pytest.raises(archive.Conflict, match="content differs"):
        store(layout, pages.put(tmp_path, 5, seed=1))
    assert codec.read_segment(layout.wal(pages.name(5))) == pages.content(5)
    assert pages.temporaries(layout) == []


def test_a_segment_that_came_compressed_stays_so(layout: Layout, tmp_path: Path) -> None:
    packed = tmp_path / pages.name(5)
    packed.write_bytes(gzip.compress(pages.content(5)))
    store(layout, str(packed), compression="zstd")
    assert Path(layout.wal(pages.name(5))).read_bytes() == packed.read_bytes()
    assert xlogdb.read(layout).lines[0].compression == "gzip"


@pytest.mark.parametrize(
    ("file_name", "data", "kind", "reason"),
    [
        (pages.name(5), b"", archive.Damaged, "too short: 0 bytes"),
        (pages.name(5), bytes(pages.SIZE), archive.Damaged, "begins with zeros"),
        (
            pages.name(5),
            pages.content(5)[: pages.SIZE // 2],
            archive.Damaged,
            "wrong size: 524288 bytes instead of 1048576",
        ),
        (pages.name(5), pages.content(4), archive.Damaged, "misplaced: it holds the WAL of 000000010000000000000004"),
        (pages.name(5), pages.content(5, timeline=2), archive.Damaged, "wrong timeline"),
        (pages.name(5), gzip.compress(pages.content(5))[:-9], archive.Damaged, "damaged"),
        (pages.name(5), gzip.compress(pages.content(5)[:-8192]), archive.Damaged, "wrong size"),
        ("00000002.history", b"", archive.Damaged, "empty"),
        ("00000002.history", b"no history\n", archive.Damaged, "cannot read"),
        ("000000010000000000000005.00000028.backup", b"x", archive.Damaged, "START WAL LOCATION"),
        ("00000001000000000000000a", pages.content(10), archive.Foreign, "not the name of a WAL"),
        ("notes.txt", b"hello", archive.Foreign, "not the name of a WAL"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(
    layout: Layout, tmp_path: Path, file_name: str, data: bytes, kind: type[archive.WalRefused], reason: str
) -> None:
    source = tmp_path / file_name
    source.write_bytes(data)
    with pytest.raises(kind) as caught:
        store(layout, str(source))
    assert reason in str(caught.value)
    assert lines(layout) == []
    assert pages.temporaries(layout) == []


def test_history_backup_label_and_partial_are_stored_verbatim(layout: Layout, tmp_path: Path) -> None:
    files = {
        "00000002.history": pages.HISTORY_2.encode(),
        f"{pages.name(5)}.00000028.backup": b"START WAL LOCATION: 0/500028 (file 000000010000000000000005)\n",
        f"{pages.name(5)}.partial": pages.content(5),
        f"{pages.name(6)}.partial": bytes(pages.SIZE),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        store(layout, str(tmp_path / name))
        assert codec.read_segment(layout.wal(name)) == data
    assert os.path.exists(os.path.join(layout.wals, "00000002.history"))
    assert lines(layout) == list(files)


def test_a_history_with_other_content_is_a_conflict(layout: Layout, tmp_path: Path) -> None:
    source = tmp_path / "00000002.history"
    source.write_text(pages.HISTORY_2)
    store(layout, str(source))
    source.write_text(pages.HISTORY_2.replace("0/58", "0/59"))
    with pytest.raises(archive.Conflict):
        store(layout, str(source))


class TestWhoseClusterItIs:
    def test_the_first_segment_decides_and_identity_json_is_written(self, layout: Layout, tmp_path: Path) -> None:
        store(layout, pages.put(tmp_path, 5))
        assert json.loads(Path(layout.identity).read_text()) == {"systemid": str(pages.SYSTEM), "version": "15"}
        with pytest.raises(archive.Alien, match=str(pages.OTHER_SYSTEM)):
            store(layout, pages.put(tmp_path, 6, system=pages.OTHER_SYSTEM))
        assert lines(layout) == [pages.name(5)]

    def test_identity_json_decides(self, layout: Layout, tmp_path: Path) -> None:
        identity.write(layout, pages.OTHER_SYSTEM, 15)
        with pytest.raises(archive.Alien):
            store(layout, pages.put(tmp_path, 5))

    def test_without_it_a_backup_decides(self, layout: Layout, tmp_path: Path) -> None:
        Path(layout.meta, "20261122T094440-backup.info").write_text(f"status=DONE\nsystemid={pages.OTHER_SYSTEM}\n")
        with pytest.raises(archive.Alien):
            store(layout, pages.put(tmp_path, 5))

    def test_without_either_an_archived_segment_decides(self, layout: Layout, tmp_path: Path) -> None:
        store(layout, pages.put(tmp_path, 5))
        os.unlink(layout.identity)
        with pytest.raises(archive.Alien):
            store(layout, pages.put(tmp_path, 6, system=pages.OTHER_SYSTEM))
        store(layout, pages.put(tmp_path, 6))

    def test_a_partial_of_another_cluster_is_alien(self, layout: Layout, tmp_path: Path) -> None:
        identity.write(layout, pages.SYSTEM, 15)
        source = tmp_path / f"{pages.name(5)}.partial"
        source.write_bytes(pages.content(5, system=pages.OTHER_SYSTEM))
        with pytest.raises(archive.Alien):
            store(layout, str(source))


def test_an_archived_file_that_cannot_be_read_makes_room(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    store(layout, source)
    place = layout.wal(pages.name(5))
    damaged = Path(place).read_bytes()[:-100]
    Path(place).write_bytes(damaged)
    assert isinstance(store(layout, source), archive.Stored)
    assert codec.read_segment(place) == pages.content(5)
    kept = [name for name in os.listdir(layout.errors) if name.endswith(".damaged")]
    assert len(kept) == 1
    assert Path(layout.errors, kept[0]).read_bytes() == damaged
    assert "cannot be read" in Path(layout.errors, kept[0] + ".reason.txt").read_text()


def test_an_archive_that_is_not_mounted_takes_nothing(layout: Layout, tmp_path: Path) -> None:
    os.rename(layout.wals, layout.wals + ".away")
    with pytest.raises(CellarmanError, match="is not there") as caught:
        store(layout, pages.put(tmp_path, 5), system_id=pages.SYSTEM)
    assert "mounted" in caught.value.now("")
    assert not os.path.exists(layout.wals)


def test_an_archive_of_another_account_says_whose_it_is(layout: Layout, tmp_path: Path) -> None:
    os.chmod(layout.wals, 0o500)
    with pytest.raises(CellarmanError, match="may not use the archive") as caught:
        store(layout, pages.put(tmp_path, 5), system_id=pages.SYSTEM)
    os.chmod(layout.wals, 0o700)
    assert "Permission denied" in caught.value.why and "run it as" in caught.value.fix


def test_a_source_that_is_gone_or_no_file_is_an_error(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(CellarmanError, match="cannot read"):
        store(layout, str(tmp_path / pages.name(5)))
    os.mkfifo(tmp_path / pages.name(5))
    with pytest.raises(archive.Foreign, match="not a regular file"):
        store(layout, str(tmp_path / pages.name(5)))


def test_a_held_lock_is_waited_for_with_a_bound_and_the_holder_is_named(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    with locks.hold(layout.lock("xlogdb")), pytest.raises(Busy) as caught:
        store(layout, source, wait=0.2)
    assert f"process {os.getpid()}" in caught.value.why
    assert lines(layout) == []
    assert pages.temporaries(layout) == []
    store(layout, source, wait=0.2)
    assert lines(layout) == [pages.name(5)]


def test_concurrent_pushers_of_one_segment_make_one_file_and_one_line(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    outcomes: list[object] = []
    start = threading.Barrier(6)

    def push() -> None:
        start.wait()
        outcomes.append(store(layout, source))

    threads = [threading.Thread(target=push) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Duplicate"] * 5 + ["Stored"]
    assert lines(layout) == [pages.name(5)]
    assert pages.temporaries(layout) == []


def test_concurrent_pushers_of_different_content_have_one_winner(layout: Layout, tmp_path: Path) -> None:
    places = [tmp_path / str(seed) for seed in range(4)]
    for seed, place in enumerate(places):
        place.mkdir()
        pages.put(place, 5, seed=seed)
    script = (
        "import sys; from engine.wal import archive; from engine.repository.layout import Layout\n"
        "try: archive.store(Layout('main', sys.argv[1]), sys.argv[2], sys.argv[3])\n"
        "except archive.Conflict: sys.exit(7)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, layout.home, str(place / pages.name(5)), pages.name(5)])
        for place in places
    ]
    codes = [process.wait() for process in running]
    assert sorted(codes) == [0, 7, 7, 7]
    assert codec.read_segment(layout.wal(pages.name(5))) == pages.content(5, seed=codes.index(0))
    assert lines(layout) == [pages.name(5)]


def _store_in_a_process(layout: Layout, source: str, *, crash_at: str = "", limit: int = 0) -> int:
    script = (
        "import sys; from engine.wal import archive; from engine.repository.layout import Layout\n"
        "archive.store(Layout('main', sys.argv[1]), sys.argv[2], sys.argv[3], compression='none')\n"
    )

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", script, layout.home, source, os.path.basename(source)],
        env={**os.environ, "CELLARMAN_CRASH_AT": crash_at},
        stderr=subprocess.PIPE,
        preexec_fn=small_files if limit else None,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize("crash_at", STEPS)
def test_a_kill_at_any_step_loses_nothing_and_the_next_push_converges(
    layout: Layout, tmp_path: Path, crash_at: str
) -> None:
    source = pages.put(tmp_path, 5)
    assert _store_in_a_process(layout, source, crash_at=crash_at) == -signal.SIGKILL
    assert Path(source).read_bytes() == pages.content(5)
    if os.path.exists(layout.wal(pages.name(5))):
        assert codec.read_segment(layout.wal(pages.name(5))) == pages.content(5)
    assert _store_in_a_process(layout, source) == 0
    assert codec.read_segment(layout.wal(pages.name(5))) == pages.content(5)
    assert lines(layout) == [pages.name(5)]
    reconcile.reconcile(layout, wait=1, young=0)
    assert pages.temporaries(layout) == []


def test_a_file_that_cannot_be_written_whole_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    assert _store_in_a_process(layout, source, limit=300_000) == 1
    assert lines(layout) == []
    assert pages.temporaries(layout) == []
    assert not os.path.exists(layout.wal(pages.name(5)))


def test_a_full_file_system_is_named_and_leaves_nothing_half() -> None:
    """In a mount namespace of our own, the repository is a tmpfs too small for a second segment."""
    script = r"""
import os, sys
from pathlib import Path
from engine.errors import CellarmanError
from engine.wal import archive
from tests.engine.wal import pages
root = Path(sys.argv[1])
layout = pages.make_layout(root)
outside = Path(sys.argv[2])
archive.store(layout, pages.put(outside, 5), pages.name(5), compression="none")
try:
    archive.store(layout, pages.put(outside, 6), pages.name(6), compression="none")
except CellarmanError as error:
    assert "No space left" in error.why and f"mounted at {root}" in error.why and "bytes free" in error.why, error.why
else:
    sys.exit("it fitted")
assert pages.temporaries(layout) == [] and not os.path.exists(layout.wal(pages.name(6)))
assert Path(layout.xlogdb).read_text().count("\n") == 1
"""
    shell = (
        'd=$(mktemp -d) && mkdir "$d/full" "$d/out" && mount -t tmpfs -o size=1700k tmpfs "$d/full" && '
        '"$0" -c "$1" "$d/full" "$d/out"; code=$?; umount "$d/full"; rm -r "$d"; exit $code'
    )
    probe = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", shell, sys.executable, script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stderr


class TestReconcile:
    def test_a_file_without_a_line_gets_it_in_order(self, layout: Layout, tmp_path: Path) -> None:
        for number in (4, 5, 6):
            store(layout, pages.put(tmp_path, number))
        kept = [line for line in xlogdb.read(layout).lines if line.name != pages.name(5)]
        lost = next(line for line in xlogdb.read(layout).lines if line.name == pages.name(5))
        xlogdb.rewrite(layout, kept)
        assert reconcile.reconcile(layout, wait=1).added == (pages.name(5),)
        healed = xlogdb.read(layout).lines
        assert [line.name for line in healed] == [pages.name(n) for n in (4, 5, 6)]
        assert healed[1] == lost
        assert reconcile.reconcile(layout, wait=1).added == ()

    def test_an_emptied_index_is_made_whole_although_no_directory_changed(self, layout: Layout, tmp_path: Path) -> None:
        for number in (4, 5):
            store(layout, pages.put(tmp_path, number))
        for directory in (layout.wals, os.path.dirname(layout.wal(pages.name(4)))):
            os.utime(directory, (1_700_000_000, 1_700_000_000))
        reconcile.reconcile(layout, wait=1)
        Path(layout.xlogdb).write_bytes(b"")
        os.utime(layout.wals, (1_700_000_000, 1_700_000_000))
        assert reconcile.reconcile(layout, wait=1).added == (pages.name(4), pages.name(5))

    def test_directories_that_did_not_change_are_not_read(self, layout: Layout, tmp_path: Path) -> None:
        store(layout, pages.put(tmp_path, 4))
        directory = os.path.dirname(layout.wal(pages.name(4)))
        for path in (directory, layout.wals):
            os.utime(path, (1_700_000_000, 1_700_000_000))
        reconcile.reconcile(layout, wait=1)
        os.rename(directory, directory + ".away")
        os.mkdir(directory)
        os.utime(directory, (1_700_000_000, 1_700_000_000))
        os.utime(layout.wals, (1_700_000_000, 1_700_000_000))
        assert reconcile.reconcile(layout, wait=1).added == ()

    def test_a_temporary_file_in_use_stays(self, layout: Layout, tmp_path: Path) -> None:
        item = archive.prepare(
            layout, pages.put(tmp_path, 5), pages.name(5), compression="zstd", level=None, system_id=None
        )
        assert reconcile.reconcile(layout, wait=1, young=0).removed == 0
        assert archive.publish(layout, [item]) == [archive.Stored(pages.name(5), pages.SIZE, item.stored)]
        item.discard()

    def test_a_stale_temporary_file_goes_once_it_is_old(self, layout: Layout) -> None:
        stale = Path(layout.wals, temporary.PREFIX + "x")
        stale.touch()
        assert reconcile.reconcile(layout, wait=1).removed == 0
        assert reconcile.reconcile(layout, wait=1, young=0).removed == 1
        assert not stale.exists()

    def test_garbage_in_its_memory_is_only_a_slower_pass(self, layout: Layout, tmp_path: Path) -> None:
        store(layout, pages.put(tmp_path, 4))
        Path(layout.own, "reconciled.json").write_text("[not json")
        assert reconcile.reconcile(layout, wait=1).added == ()


def test_a_killed_pass_is_healed_by_reconcile_alone(layout: Layout, tmp_path: Path) -> None:
    source = pages.put(tmp_path, 5)
    assert _store_in_a_process(layout, source, crash_at="wal.renamed") == -signal.SIGKILL
    assert lines(layout) == []
    before = time.time()
    assert reconcile.reconcile(layout, wait=1).added == (pages.name(5),)
    assert xlogdb.read(layout).lines[0].time < before
