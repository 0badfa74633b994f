"""Segments made ready ahead of replay: never stale, never a decision, never in the way, and gone afterwards."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.postgres import timeline
from engine.repository.layout import Layout
from engine.wal import archive, condemned, prefetch, spool
from tests.engine.wal import pages
from tests.support.programs import BIN
from tests.support.waiting import until

CLIENT = str(BIN / "cellarman-wal")


def helpers(root: Path) -> list[int]:
    """Return the living helpers whose spool is in `root`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"engine.wal.prefetch" in words and any(word.startswith(os.fsencode(root)) for word in words):
            found.append(int(place.name))
    return found


class Recovery:
    """A data directory as a recovering PostgreSQL has it, and an archive of segments 1 to 20; no PostgreSQL."""

    def __init__(self, root: Path, layout: Layout, name: str = "data") -> None:
        self.root = root
        self.spools = root
        """Where the spool is, and TMPDIR."""
        self.layout = layout
        self.data = root / name
        (self.data / "pg_wal").mkdir(parents=True)
        (self.data / "global").mkdir()
        (self.data / "global" / "pg_control").write_bytes(pages.SYSTEM.to_bytes(8, "little"))
        (self.data / "recovery.signal").touch()
        self.postmaster = subprocess.Popen(["sleep", "300"])
        (self.data / "postmaster.pid").write_text(f"{self.postmaster.pid}\n{self.data}\n")
        self.config = root / "cellarman.toml"
        home = os.path.dirname(layout.home)
        self.config.write_text(f'[cellarman]\nbarman_home = "{home}"\n[servers.main]\nconninfo = "host=/x"\n')

    def get(self, name: str, *options: str, to: str = "pg_wal/RECOVERYXLOG") -> int:
        """Have a file delivered, as PostgreSQL does: the destination is free."""
        (self.data / to).unlink(missing_ok=True)
        command = [CLIENT, "get", name, to, "--server", "main", "--config", str(self.config), *options]
        env = {**os.environ, "XDG_CACHE_HOME": str(self.spools / "cache"), "TMPDIR": str(self.spools)}
        return subprocess.run(command, cwd=self.data, env=env, check=False, timeout=30).returncode

    @property
    def delivered(self) -> bytes:
        return (self.data / "pg_wal" / "RECOVERYXLOG").read_bytes()

    @property
    def spool(self) -> Path:
        facts = self.data.stat()
        return next(self.spools.glob(f"{spool.PREFIX}{facts.st_dev:x}-{facts.st_ino}-*"), self.root / "no spool")

    def ready(self) -> dict[str, Path]:
        """Return what is ready, by name of segment."""
        found = [path for path in self.spool.glob("0*") if not path.name.endswith(spool.UNDERWAY)]
        return {path.name.partition(".")[0]: path for path in found}

    def served_by(self) -> int:
        """Return the helper that says that the spool is its own, 0 while none does: what lay in it before is gone."""
        try:
            return int((self.spool / spool.FOR).read_text().split("\n")[1])
        except FileNotFoundError:
            return 0

    def filled(self, *numbers: int, line: int = 1) -> dict[str, Path]:
        """Wait until these segments are ready."""
        wanted = {pages.name(number, line) for number in numbers}
        until(lambda: wanted <= set(self.ready()), what=f"segments {numbers} are ready")
        return self.ready()

    def gone(self) -> None:
        """Wait until helper and spool are gone."""
        until(lambda: not self.spool.exists() and not helpers(self.spool), what="the spool is gone")

    def end(self) -> None:
        (self.data / "recovery.signal").unlink(missing_ok=True)
        self.postmaster.kill()
        self.postmaster.wait()
        self.gone()


@pytest.fixture
def recovery(tmp_path: Path) -> Iterator[Recovery]:
    layout = pages.make_layout(tmp_path)
    for number in range(1, 21):
        archived(layout, number)
    made = Recovery(tmp_path, layout)
    yield made
    made.end()


def archived(layout: Layout, number: int, line: int = 1) -> None:
    path = pages.put(os.path.dirname(layout.home), number, timeline=line)
    archive.store(layout, path, os.path.basename(path), compression="zstd")
    os.unlink(path)


def replace(layout: Layout, number: int, data: bytes) -> None:
    place = Path(layout.wal(pages.name(number)))
    new = place.with_name(".new")
    new.write_bytes(data)
    new.rename(place)


def test_it_runs_ahead_within_its_bound_and_what_is_ready_is_moved_into_place(recovery: Recovery) -> None:
    assert recovery.get(pages.name(1)) == 0
    ready = recovery.filled(*range(2, 18))
    assert set(ready) == {pages.name(number) for number in range(2, 18)}
    assert recovery.spool.stat().st_mode & 0o777 == 0o700
    assert recovery.spool.parent == recovery.data.parent
    for number in range(2, 21):
        inode = recovery.filled(number)[pages.name(number)].stat().st_ino
        assert recovery.get(pages.name(number)) == 0
        assert recovery.delivered == pages.content(number)
        there = (recovery.data / "pg_wal" / "RECOVERYXLOG").stat()
        assert (there.st_ino, there.st_mode & 0o777, there.st_nlink) == (inode, 0o600, 1)
    assert recovery.get(pages.name(21)) == 1
    assert len(helpers(recovery.spool)) == 1
    assert os.listdir(recovery.data / "pg_wal") == []


def test_a_lone_get_starts_nothing(recovery: Recovery) -> None:
    (recovery.data / "recovery.signal").unlink()
    assert recovery.get(pages.name(3)) == 0
    assert recovery.get(pages.name(5), to=pages.name(5)) == 0
    (recovery.data / "recovery.signal").touch()
    assert recovery.get(pages.name(3), "--no-prefetch") == 0
    assert recovery.get("00000002.history") == 1
    assert recovery.get(pages.name(30)) == 1
    assert not recovery.spool.exists()
    assert helpers(recovery.root) == []


@pytest.mark.parametrize("to", ["pg_wal/RECOVERYXLOG", "pg_wal/{name}"])
def test_a_sequence_without_postgresql_is_prefetched_too(recovery: Recovery, to: str) -> None:
    (recovery.data / "recovery.signal").unlink()
    spools = recovery.data.glob(f"{spool.PREFIX}*")
    for number in (3, 4):
        if to.endswith("XLOG") and number == 4:
            (recovery.data / "pg_wal" / "RECOVERYXLOG").rename(recovery.data / "pg_wal" / pages.name(3))
        assert recovery.get(pages.name(number), to=to.format(name=pages.name(number))) == 0
    until(lambda: any(helpers(recovery.data)), what="a helper is there")
    until(lambda: not any(helpers(recovery.data)) and not list(spools), what="it ends when nobody asks")


class TestNeverStale:
    """The archive's file is another one than that which was made ready."""

    def test_another_file_in_its_place(self, recovery: Recovery) -> None:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2)
        replace(recovery.layout, 2, pages.content(2, seed=1))
        assert recovery.get(pages.name(2)) == 0
        assert recovery.delivered == pages.content(2, seed=1)

    def test_a_change_in_place_that_hides(self, recovery: Recovery) -> None:
        for number in (2, 3):
            replace(recovery.layout, number, pages.content(number))
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2, 3)
        place = Path(recovery.layout.wal(pages.name(2)))
        before = place.stat()
        place.write_bytes(pages.content(2, seed=1))
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert recovery.get(pages.name(2)) == 0
        assert recovery.delivered == pages.content(2, seed=1)

    def test_what_became_a_hole_is_a_hole(self, recovery: Recovery, capfd: pytest.CaptureFixture[str]) -> None:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2)
        os.unlink(recovery.layout.wal(pages.name(2)))
        assert recovery.get(pages.name(2)) == 255
        assert "is missing from the archive" in capfd.readouterr().err
        assert not (recovery.data / "pg_wal" / "RECOVERYXLOG").exists()

    def test_what_was_damaged_is_refused(self, recovery: Recovery) -> None:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2)
        place = Path(recovery.layout.wal(pages.name(2)))
        with place.open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        assert recovery.get(pages.name(2)) == 255
        assert not (recovery.data / "pg_wal" / "RECOVERYXLOG").exists()

    def test_what_was_condemned_is_refused(self, recovery: Recovery) -> None:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2)
        about = condemned.identity(os.stat(recovery.layout.wal(pages.name(2))))
        condemned.condemn(recovery.layout, pages.name(2), about, "a record's checksum is wrong")
        assert recovery.get(pages.name(2)) == 255

    def test_another_clusters_segments_are_not_even_made_ready(self, recovery: Recovery) -> None:
        replace(recovery.layout, 2, pages.content(2, system=pages.OTHER_SYSTEM))
        assert recovery.get(pages.name(1)) == 0
        assert set(recovery.filled(*range(3, 18))) == {pages.name(number) for number in range(3, 18)}
        assert recovery.get(pages.name(2)) == 255


@pytest.mark.parametrize(
    "damage",
    [b"", bytes(pages.SIZE), pages.content(2)[:-8192], pages.content(3), pages.content(2, system=pages.OTHER_SYSTEM)],
    ids=["empty", "zeros", "short", "misplaced", "alien"],
)
def test_a_damaged_spool_is_only_slower(recovery: Recovery, damage: bytes) -> None:
    assert recovery.get(pages.name(1)) == 0
    recovery.filled(2)[pages.name(2)].write_bytes(damage)
    assert recovery.get(pages.name(2)) == 0
    assert recovery.delivered == pages.content(2)


def test_nothing_that_a_killed_helper_left_is_used(recovery: Recovery) -> None:
    assert recovery.get(pages.name(1)) == 0
    left = recovery.filled(2, 3)
    (helper,) = helpers(recovery.spool)
    os.kill(helper, signal.SIGKILL)
    until(lambda: not helpers(recovery.spool), what="it is dead")
    for path in left.values():  # as after a crash of the machine: header and size are good, the rest was never written
        path.write_bytes(path.read_bytes()[:8192] + bytes(pages.SIZE - 8192))
    assert recovery.get(pages.name(2)) == 0
    assert recovery.delivered == pages.content(2)
    until(lambda: recovery.served_by() not in (0, helper), what="the next one has cleared it away, and begun anew")
    again = recovery.filled(3)
    assert again[pages.name(3)].read_bytes() == pages.content(3)
    assert pages.name(2) not in again


@pytest.mark.parametrize("how", ["recovered", "killed", "stopped", "told", "removed"])
def test_it_goes_when_recovery_does(recovery: Recovery, how: str) -> None:
    assert recovery.get(pages.name(1)) == 0
    recovery.filled(2, 17)
    (helper,) = helpers(recovery.spool)
    if how == "recovered":
        (recovery.data / "recovery.signal").unlink()
    elif how == "killed":
        recovery.postmaster.kill()
        recovery.postmaster.wait()
    elif how == "stopped":
        (recovery.data / "postmaster.pid").unlink()
    elif how == "told":
        os.kill(helper, signal.SIGTERM)
    else:
        recovery.data.rename(recovery.root / "moved")
        until(lambda: not helpers(recovery.root), what="it has ended")
        assert list(recovery.root.glob(f"{spool.PREFIX}*")) == []
        (recovery.root / "moved").rename(recovery.data)
    recovery.gone()


def test_many_at_once_start_one(recovery: Recovery) -> None:
    command = [CLIENT, "get", pages.name(1), "", "--server", "main", "--config", str(recovery.config)]
    running = []
    for number in range(6):
        command[3] = f"pg_wal/{number}"
        running.append(subprocess.Popen(command, cwd=recovery.data))
    assert [process.wait() for process in running] == [0] * 6
    recovery.filled(2, 17)
    until(lambda: len(helpers(recovery.spool)) == 1, what="one is left")


def test_two_restores_have_a_spool_each(recovery: Recovery) -> None:
    other = Recovery(recovery.root, recovery.layout, "other")
    try:
        assert recovery.get(pages.name(1)) == 0
        assert other.get(pages.name(9)) == 0
        recovery.filled(2)
        other.filled(10)
        assert recovery.spool != other.spool
        assert other.get(pages.name(10)) == 0
        assert recovery.get(pages.name(2)) == 0
        assert (recovery.delivered, other.delivered) == (pages.content(2), pages.content(10))
        recovery.end()
        assert other.spool.exists()
    finally:
        other.end()


def test_a_repository_that_may_only_be_read(recovery: Recovery) -> None:
    directories = [path for path, _, _ in os.walk(recovery.layout.home)]
    for path in directories:
        os.chmod(path, 0o555)
    try:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2)
        assert recovery.get(pages.name(2)) == 0
        assert recovery.delivered == pages.content(2)
    finally:
        for path in directories:
            os.chmod(path, 0o755)


def test_no_place_beside_the_data_directory(recovery: Recovery, another_file_system: Path) -> None:
    """A mount point's parent may be another's: then the spool is with the temporary files, and is copied from."""
    parent = recovery.root / "root"
    parent.mkdir()
    other = Recovery(parent, recovery.layout)
    parent.chmod(0o555)
    other.spools = another_file_system
    try:
        assert other.get(pages.name(1)) == 0
        other.filled(2)
        assert other.get(pages.name(2)) == 0
        assert other.delivered == pages.content(2)
        assert other.spool.parent == another_file_system
        until(lambda: pages.name(2) not in other.ready(), what="what was copied is removed")
    finally:
        other.end()
        parent.chmod(0o755)


def test_a_spool_that_is_open_to_others_is_not_used(recovery: Recovery) -> None:
    assert recovery.get(pages.name(1)) == 0
    recovery.filled(2)
    ready = recovery.ready()[pages.name(2)]
    times = ready.stat()
    ready.write_bytes(pages.content(2, seed=1))
    os.utime(ready, ns=(times.st_atime_ns, times.st_mtime_ns))
    recovery.spool.chmod(0o755)
    assert recovery.get(pages.name(2)) == 0
    assert recovery.delivered == pages.content(2)


def test_a_spool_that_cannot_be_written_is_only_slower(recovery: Recovery) -> None:
    assert recovery.get(pages.name(1)) == 0
    recovery.filled(2)
    path = recovery.spool
    os.kill(helpers(path)[0], signal.SIGTERM)
    recovery.gone()

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    layout = recovery.layout
    path.mkdir(mode=0o700)
    words = [str(path), layout.home, layout.wals, pages.name(1), str(pages.SYSTEM), str(recovery.data), ""]
    command = [sys.executable, "-m", "engine.wal.prefetch", *words]
    with subprocess.Popen(command, preexec_fn=small_files) as helper:
        until(lambda: (path / spool.BELL).exists(), what="it listens")
        assert recovery.get(pages.name(2)) == 0
        assert recovery.delivered == pages.content(2)
        assert recovery.ready() == {}
        assert helper.poll() is None
        helper.terminate()


def test_it_follows_the_switch_to_another_timeline(recovery: Recovery) -> None:
    for number in range(5, 9):
        archived(recovery.layout, number, line=2)
    Path(recovery.layout.wals, "00000002.history").write_text("1\t0/500000\tx\n")
    assert recovery.get(pages.name(3)) == 0
    recovery.filled(4, 5, 6)
    recovery.filled(5, 6, 7, 8, line=2)
    assert recovery.get(pages.name(4)) == 0
    for number in (5, 6):
        assert recovery.get(pages.name(number, 2)) == 0
        assert recovery.delivered == pages.content(number, timeline=2)
    until(lambda: all(name.startswith("00000002") for name in recovery.ready()), what="timeline 1 is dropped")
    assert recovery.get(pages.name(9, 2)) == 1


def test_a_hazard_is_decided_when_it_is_asked_for(recovery: Recovery) -> None:
    archived(recovery.layout, 5, line=2)
    Path(recovery.layout.wals, "00000002.history").write_text(pages.HISTORY_2)
    assert recovery.get(pages.name(4)) == 0
    recovery.filled(5, line=2)
    os.unlink(recovery.layout.wal(pages.name(5, 2)))
    assert recovery.get(pages.name(5, 2)) == 255
    assert recovery.get(pages.name(5, 2), "--accept-gap") == 255


HISTORIES = {
    2: timeline.parse_history(2, "1\t0/580000\tx\n"),
    3: timeline.parse_history(3, "1\t0/580000\tx\n2\t0/7A0000\ty\n"),
    4: timeline.parse_history(4, "1\t0/3A0000\tz\n"),
}


@pytest.mark.parametrize(
    ("asked", "target", "files"),
    [
        ((1, 4), 3, ["2/5 1/5", "2/6 1/6", "3/7 1/7", "3/8 1/8"]),
        ((1, 4), 2, ["2/5 1/5", "2/6 1/6", "2/7 1/7", "2/8 1/8"]),
        ((2, 6), 3, ["3/7 2/7", "3/8 2/8", "3/9 2/9", "3/10 2/10"]),
        ((3, 7), None, ["3/8", "3/9", "3/10", "3/11"]),
        ((1, 4), 1, ["1/5", "1/6", "1/7", "1/8"]),
        ((1, 2), None, ["4/3 1/3", "4/4 1/4", "4/5 1/5", "4/6 1/6"]),
        ((1, 4), None, ["2/5 1/5", "2/6 1/6", "3/7 1/7", "3/8 1/8"]),
        ((1, 8), None, ["1/9", "1/10", "1/11", "1/12"]),
        ((1, 4), 9, ["1/5", "1/6", "1/7", "1/8"]),
    ],
)
def test_what_recovery_may_ask_for_next(asked: tuple[int, int], target: int | None, files: list[str]) -> None:
    line, number = asked
    found = prefetch.ahead(pages.name(number, line), pages.SIZE, 4, HISTORIES, target)
    numbers = [[(int(one[:8], 16), int(one[8:16], 16) * 4096 + int(one[16:], 16)) for one in names] for names in found]
    assert [" ".join(f"{line}/{number}" for line, number in names) for names in numbers] == files


class TestTheShell:
    """What the shell script does without Python, and what it leaves to it."""

    def test_it_delivers_what_is_ready_without_python(self, recovery: Recovery, tmp_path: Path) -> None:
        assert recovery.get(pages.name(1)) == 0
        recovery.filled(2, 3)
        until((recovery.spool / spool.FOR).exists, what="the helper says whose it is")
        alone = _without_python(tmp_path)
        words = ["--server", "main", "--config", str(recovery.config)]
        assert _run(alone, recovery, pages.name(2), *words) == 0
        assert recovery.delivered == pages.content(2)
        assert _run(alone, recovery, pages.name(3), "--server", "main") == 255  # meant for another configuration


def _without_python(place: Path) -> Path:
    """Return the script with a client beside it that can only fail, as a broken installation's does."""
    bin_ = place / "bin"
    bin_.mkdir()
    (bin_ / "cellarman-wal").write_bytes(Path(CLIENT).read_bytes())
    (bin_ / "cellarman-wal-client").write_text("#!/bin/sh\nexit 1\n")
    for path in bin_.iterdir():
        path.chmod(0o755)
    return bin_ / "cellarman-wal"


def _run(script: Path, recovery: Recovery, name: str, *words: str) -> int:
    command = [str(script), "get", name, "pg_wal/RECOVERYXLOG", *words]
    return subprocess.run(command, cwd=recovery.data, check=False, timeout=30).returncode
