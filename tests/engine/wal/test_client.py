"""`cellarman-wal` as PostgreSQL runs it: exit codes, what it loads, the cache, signals, failing storage."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from engine.config import Server
from engine.postgres.segment import segment_name
from engine.repository import identity, locks, xlogdb
from engine.repository.layout import Layout
from engine.wal import client, codec
from engine.wal.ingest import ingest
from engine.wal.reconcile import reconcile
from tests.engine.wal import pages

ROOT = Path(__file__).parents[3]
HEAVY = {
    "argparse",
    "contextlib",
    "dataclasses",
    "datetime",
    "engine.config",
    "enum",
    "json",
    "logging",
    "pathlib",
    "platform",
    "psycopg2",
    "re",
    "shutil",
    "sqlite3",
    "subprocess",
    "tempfile",
    "tomli",
    "typing",
    "zstandard",
}


@dataclass
class Here:
    """A repository, its configuration, and a data directory to run in."""

    root: Path
    layout: Layout

    @property
    def config(self) -> Path:
        return self.root / "cellarman.toml"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def cache(self) -> Path:
        return self.root / "cache" / "cellarman"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.root / "cache"), "PYTHONPATH": str(ROOT)}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "engine.wal.client", *words]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.data,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def push(self, path: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("push", str(path), "--server", "main", "--config", str(self.config), **env)

    def get(self, name: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        words = ("get", name, "pg_wal/RECOVERYXLOG", "--server=main", f"--config={self.config}", *options)
        return self.run(*words, **env)

    def delivered(self) -> bytes:
        return (self.data / "pg_wal" / "RECOVERYXLOG").read_bytes()


@pytest.fixture
def here(tmp_path: Path) -> Here:
    made = Here(tmp_path, pages.make_layout(tmp_path))
    (made.data / "pg_wal").mkdir(parents=True)
    configure(made, made.layout.home)
    return made


def configure(here: Here, home: str) -> None:
    here.config.write_text(
        f'[cellarman]\nbarman_home = "{os.path.dirname(home)}"\nlock_timeout = 2\n'
        '[servers.main]\nconninfo = "host=/nowhere"\narchiver = true\n'
    )


def test_push_then_get(here: Here) -> None:
    source = pages.put(here.data / "pg_wal", 5)
    pushed = here.push(os.path.join("pg_wal", pages.name(5)))
    assert (pushed.returncode, pushed.stdout, pushed.stderr) == (0, "", "")
    assert os.path.exists(source)
    assert here.get(pages.name(5)).returncode == 0
    assert here.delivered() == pages.content(5)
    assert here.get(pages.name(6)).returncode == 1
    assert here.get("00000002.history").returncode == 1
    assert here.push(source).returncode == 0


def test_push_of_other_content_fails_and_moves_nothing(here: Here) -> None:
    assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
    source = pages.put(here.data / "pg_wal", 5, seed=1)
    for _ in range(2):
        refused = here.push(source)
        assert refused.returncode == 1
        assert "the repository holds it already" in refused.stderr
    assert Path(source).read_bytes() == pages.content(5, seed=1)
    (note,) = os.listdir(here.layout.errors)
    assert source in Path(here.layout.errors, note).read_text()
    assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
    assert os.listdir(here.layout.errors) == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (pages.name(5), pages.content(5, system=pages.OTHER_SYSTEM), "it belongs to the system"),
        (pages.name(5), b"", "too short: 0 bytes"),
        ("notes.txt", b"x", "is refused"),
    ],
)
def test_push_refuses_with_1_and_leaves_postgresqls_file(here: Here, name: str, data: bytes, reason: str) -> None:
    identity.write(here.layout, pages.SYSTEM, 15)
    source = here.data / "pg_wal" / name
    source.write_bytes(data)
    refused = here.push(source)
    assert refused.returncode == 1
    assert reason in refused.stderr
    assert source.read_bytes() == data
    assert not os.path.exists(here.layout.wal(name))


def test_push_of_a_file_that_is_not_there(here: Here) -> None:
    missing = here.push("pg_wal/000000010000000000000007")
    assert missing.returncode == 1
    assert "No such file" in missing.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["frobnicate"], 2),
        (["push"], 1),
        (["push", "x", "y", "--server", "main"], 1),
        (["push", "x"], 1),
        (["push", "x", "--server"], 1),
        (["push", "x", "--server", "main", "--accept-gap"], 1),
        (["get"], 255),
        (["get", "x", "--server", "main"], 255),
        (["get", "x", "y"], 255),
        (["get", "x", "y", "--server", "main", "--on-hole=promote"], 255),
        (["get", "x", "y", "--server", "main", "--verbose"], 255),
        (["--help"], 0),
        (["get", "--help"], 0),
        (["--version"], 0),
    ],
)
def test_usage(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(words) == code
    printed = capsys.readouterr()
    assert bool(printed.err) == (code != 0)
    assert bool(printed.out) == (code == 0)


@pytest.mark.parametrize(("verb", "code"), [("push", 1), ("get", 255)])
class TestNothingThatGoesWrongIsAnEnd:
    def words(self, verb: str, **kind: str) -> list[str]:
        server, config = kind.get("server", "main"), kind.get("config", "")
        operands = ["pg_wal/x"] if verb == "push" else [pages.name(5), "pg_wal/RECOVERYXLOG"]
        return [verb, *operands, "--server", server, *(["--config", config] if config else [])]

    def test_no_such_server(self, here: Here, verb: str, code: int) -> None:
        done = here.run(*self.words(verb, server="mian", config=str(here.config)))
        assert done.returncode == code
        assert 'nearest: "main"' in done.stderr

    def test_no_such_configuration(self, here: Here, verb: str, code: int) -> None:
        assert here.run(*self.words(verb, config=str(here.root / "none.toml"))).returncode == code

    def test_a_broken_configuration(self, here: Here, verb: str, code: int) -> None:
        here.config.write_text("[cellarman\n")
        assert here.run(*self.words(verb, config=str(here.config))).returncode == code

    def test_a_missing_library(self, here: Here, verb: str, code: int) -> None:
        assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0  # the first is archived at once
        command = [sys.executable, "-S", "-m", "engine.wal.client", *self.words(verb, config=str(here.config))]
        if verb == "push":
            command[5] = str(here.data / "pg_wal" / "00000002.history")
            Path(command[5]).write_text(pages.HISTORY_2)
        done = subprocess.run(command, cwd=here.data, env=here.env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "zstandard" in done.stderr

    def test_an_archive_that_is_gone(self, here: Here, verb: str, code: int) -> None:
        shutil.rmtree(here.layout.home)
        pages.put(here.data / "pg_wal", 5)
        done = here.push(f"pg_wal/{pages.name(5)}") if verb == "push" else here.get(pages.name(5))
        assert done.returncode == code
        assert "mounted" in done.stderr


def test_a_hole_is_255_and_says_why_in_one_line(here: Here) -> None:
    for number in (4, 6):
        assert here.push(pages.put(here.data / "pg_wal", number)).returncode == 0
    done = here.get(pages.name(5))
    assert done.returncode == 255
    assert re.fullmatch(rf"cellarman-wal: {pages.name(5)} is missing .*{pages.name(6)} is there.*\n", done.stderr)
    assert here.get(pages.name(5), "--on-hole=absent").returncode == 1
    assert here.get(pages.name(5), "--accept-gap").returncode == 1
    assert pages.name(5) in Path(here.layout.own, "accepted-gaps.log").read_text()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_hole_is_255_also_when_nobody_can_be_told(here: Here, closed: str) -> None:
    for number in (4, 6):
        assert here.push(pages.put(here.data / "pg_wal", number)).returncode == 0
    words = here.command("get", pages.name(5), "pg_wal/R", "--server", "main", "--config", str(here.config))
    line = ["sh", "-c", f'"$@" {closed}', "sh", *words]
    assert subprocess.run(line, cwd=here.data, env=here.env, check=False).returncode == 255
    words[4] = pages.name(7)
    assert subprocess.run(line[:4] + words, cwd=here.data, env=here.env, check=False).returncode == 1


def test_get_answers_to_the_cluster_that_asks(here: Here) -> None:
    assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
    (here.data / "global").mkdir()
    (here.data / "global" / "pg_control").write_bytes(pages.OTHER_SYSTEM.to_bytes(8, "little") + bytes(8184))
    refused = here.get(pages.name(5))
    assert refused.returncode == 255
    assert "belongs to the system" in refused.stderr


class TestCache:
    def test_a_changed_configuration_is_noticed_at_once(self, here: Here, tmp_path: Path) -> None:
        assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
        assert len(os.listdir(here.cache)) == 1
        other = pages.make_layout(tmp_path / "other")
        before = here.config.stat()
        configure(here, other.home)
        os.utime(here.config, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert here.push(here.data / "pg_wal" / pages.name(5)).returncode == 0
        assert os.path.exists(other.wal(pages.name(5)))

    def test_the_same_without_naming_a_file(self, here: Here) -> None:
        own = here.root / "xdg" / "cellarman"
        own.mkdir(parents=True)
        shutil.copy(here.config, own / "cellarman.toml")
        pages.put(here.data / "pg_wal", 5)
        words = ("push", f"pg_wal/{pages.name(5)}", "--server", "main")
        env = {"XDG_CONFIG_HOME": str(here.root / "xdg")}
        assert here.run(*words, **env).returncode == 0
        assert here.run(*words, **env).returncode == 0
        (own / "cellarman.toml").unlink()
        assert here.run(*words, **env).returncode == 1

    @pytest.mark.parametrize("damage", [b"", b"garbage", b"\x00" * 100, b"("])
    def test_a_damaged_cache_is_only_slower(self, here: Here, damage: bytes) -> None:
        source = pages.put(here.data / "pg_wal", 5)
        here.push(source)
        (cache,) = here.cache.iterdir()
        cache.write_bytes(damage)
        assert here.push(source).returncode == 0

    def test_a_cache_that_others_could_have_written_is_not_believed(self, here: Here, tmp_path: Path) -> None:
        source = pages.put(here.data / "pg_wal", 5)
        here.push(source)
        (cache,) = here.cache.iterdir()
        other = pages.make_layout(tmp_path / "other")
        cache.write_bytes(
            cache.read_bytes().replace(here.layout.home.encode(), other.home.encode()[: len(here.layout.home)])
        )
        cache.chmod(0o666)
        assert here.push(source).returncode == 0
        assert os.path.exists(here.layout.wal(pages.name(5)))

    def test_an_account_without_a_cache_directory(self, here: Here) -> None:
        (here.root / "cache").write_text("a file")
        assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0

    def test_it_holds_no_secret(self, here: Here) -> None:
        here.config.write_text(here.config.read_text().replace("host=/nowhere", "host=/nowhere password=hunter2"))
        here.config.chmod(0o600)
        assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
        (cache,) = here.cache.iterdir()
        assert b"hunter2" not in cache.read_bytes()
        assert cache.stat().st_mode & 0o077 == 0


class TestQueue:
    """Where pushed segments wait for ingest."""

    @pytest.fixture(autouse=True)
    def _known_cluster(self, here: Here) -> None:
        identity.write(here.layout, pages.SYSTEM, 15)

    def queued(self, here: Here, number: int = 5) -> Path:
        return Path(here.layout.incoming, pages.name(number))

    def test_a_segment_waits_for_the_next_pass_and_is_then_archived(self, here: Here) -> None:
        source = pages.put(here.data / "pg_wal", 5)
        os.utime(source, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
        assert here.push(source).returncode == 0
        assert self.queued(here).read_bytes() == pages.content(5)
        assert self.queued(here).stat().st_mtime_ns == 1_700_000_000_123_456_789
        assert os.listdir(here.layout.incoming) == [pages.name(5)]
        assert here.get(pages.name(5)).returncode == 0
        assert ingest(Server("main", os.path.dirname(here.layout.home))).stored == (pages.name(5),)
        assert here.push(source).returncode == 0
        assert os.listdir(here.layout.incoming) == []

    def test_no_lock_is_waited_for(self, here: Here) -> None:
        with locks.hold(here.layout.lock("xlogdb")), locks.hold(here.layout.lock("archive-wal")):
            assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0

    def test_the_same_again_is_fine_and_other_content_a_conflict(self, here: Here) -> None:
        for _ in range(2):
            assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
        assert here.push(pages.put(here.data / "pg_wal", 5, seed=1)).returncode == 1
        assert self.queued(here).read_bytes() == pages.content(5)
        assert os.listdir(here.layout.incoming) == [pages.name(5)]

    def test_half_a_file_of_somebody_else_is_replaced(self, here: Here) -> None:
        self.queued(here).write_bytes(pages.content(5)[:5000])
        assert here.push(pages.put(here.data / "pg_wal", 5)).returncode == 0
        assert self.queued(here).read_bytes() == pages.content(5)

    def test_many_at_once_have_one_winner(self, here: Here) -> None:
        here.push(pages.put(here.data / "pg_wal", 4))
        running = []
        for seed in range(4):
            place = here.root / str(seed)
            place.mkdir()
            words = ("push", pages.put(place, 5, seed=seed), "--server", "main", "--config", str(here.config))
            running.append(subprocess.Popen(here.command(*words), env=here.env, stderr=subprocess.DEVNULL))
        codes = [process.wait() for process in running]
        assert sorted(codes) == [0, 1, 1, 1]
        assert self.queued(here).read_bytes() == pages.content(5, seed=codes.index(0))

    def test_pushers_beside_passes_lose_nothing(self, here: Here) -> None:
        server = Server("main", os.path.dirname(here.layout.home))
        for number in range(1, 13):
            source = pages.put(here.data / "pg_wal", number)
            words = ("push", source, "--server", "main", "--config", str(here.config))
            pushers = [subprocess.Popen(here.command(*words), env=here.env) for _ in range(2)]
            while any(process.poll() is None for process in pushers):
                assert ingest(server).refused == ()
            assert [process.returncode for process in pushers] == [0, 0]
        assert ingest(server).refused == ()
        names = [line.name for line in xlogdb.read(here.layout).lines]
        assert sorted(names) == [pages.name(number) for number in range(1, 13)]

    @pytest.mark.parametrize("crash_at", ["push.copied", "push.linked", "push.synced"])
    def test_a_kill_at_any_step_is_no_acknowledgement_and_the_next_push_converges(
        self, here: Here, crash_at: str
    ) -> None:
        source = pages.put(here.data / "pg_wal", 5)
        assert here.push(source, CELLARMAN_CRASH_AT=crash_at).returncode == -signal.SIGKILL
        assert here.push(source).returncode == 0
        assert self.queued(here).read_bytes() == pages.content(5)
        reconcile(here.layout, wait=1, young=0)
        assert os.listdir(here.layout.incoming) == [pages.name(5)]

    def test_a_file_that_cannot_be_written_whole_leaves_nothing(self, here: Here) -> None:
        source = pages.put(here.data / "pg_wal", 5)

        def small_files() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

        words = ("push", source, "--server", "main", "--config", str(here.config))
        done = subprocess.run(
            here.command(*words), env=here.env, capture_output=True, text=True, preexec_fn=small_files, check=False
        )
        assert done.returncode == 1
        assert "File too large" in done.stderr
        assert os.listdir(here.layout.incoming) == []
        assert Path(source).read_bytes() == pages.content(5)


@pytest.mark.parametrize("name", ["none", "zstd"])
def test_large_segments_are_mapped_and_not_held_in_memory(here: Here, name: str) -> None:
    """Of the segment and the one before it, both of 128 MiB, a process that may have 96 MiB of its own reads all."""
    size = 128 << 20
    for number in (1, 2):
        plain = pages.filled(number, 1, size=size)
        path = Path(here.layout.wal(segment_name(1, number, size)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.compress(plain, name))
    words = ("get", segment_name(1, 2, size), "pg_wal/RECOVERYXLOG", "--server=main", f"--config={here.config}")
    done = subprocess.run(
        here.command(*words),
        cwd=here.data,
        env=here.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (96 << 20, 96 << 20)),
    )
    assert done.returncode == 0, done.stderr
    assert here.delivered() == plain
    assert os.listdir(here.data / "pg_wal") == ["RECOVERYXLOG"]


@pytest.mark.parametrize("verb", ["push", "get"])
def test_what_it_loads(here: Here, verb: str) -> None:
    """Counted, not timed: the 30 ms that a start may take are lost to imports first."""
    source = pages.put(here.data / "pg_wal", 5)
    assert here.push(source).returncode == 0
    operands = [pages.put(here.data / "pg_wal", 6)] if verb == "push" else [pages.name(5), "pg_wal/RECOVERYXLOG"]
    words = [verb, *operands, "--server", "main", "--config", str(here.config)]
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {os.path.dirname(os.path.dirname(zstandard.__file__))!r}]\n"
        f"from engine.wal.client import main\ncode = main({words!r})\n"
        "print(' '.join(sys.modules)); sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=here.data,
        env=here.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded & HEAVY == set()
    ours = {name for name in loaded if name.startswith("engine.")}
    # To read a segment's records before it is handed out takes some more.
    assert len(ours) <= (24 if verb == "push" else 27), sorted(ours)
    assert len(loaded) <= (75 if verb == "push" else 85), sorted(loaded)


@pytest.mark.parametrize("verb", ["push", "get"])
def test_sigterm_ends_it_by_sigterm(here: Here, verb: str) -> None:
    """PostgreSQL tells an orderly stop from a failure by this."""
    source = pages.put(here.data / "pg_wal", 5)  # the first of all, which goes into the archive under its lock
    Path(here.layout.incoming, pages.name(6)).write_bytes(pages.content(6)[:5000])
    operands = [source] if verb == "push" else [pages.name(6), "pg_wal/RECOVERYXLOG"]
    words = [verb, *operands, "--server", "main", "--config", str(here.config)]
    with locks.hold(here.layout.lock("xlogdb")):
        running = subprocess.Popen(here.command(*words), cwd=here.data, env=here.env, stderr=subprocess.DEVNULL)
        _await_waiting(running.pid, str(here.root))
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=10) == -signal.SIGTERM
    assert not os.path.exists(here.layout.wal(pages.name(5)))
    assert here.push(source).returncode == 0


def _await_waiting(pid: int, root: str) -> None:
    """Return once the process sleeps between two tries, well after its start."""
    deadline = time.monotonic() + 20
    asleep = 0  # looks in a row; /proc tells the state of a process to all, but its system call not everywhere
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        if asleep == 10:
            return
        time.sleep(0.01)
    raise AssertionError("it never waited")


class TestStorage:
    """Seen by strace: what is synced before the exit code says so, and what happens when the storage refuses."""

    @pytest.fixture(autouse=True)
    def _strace(self) -> None:
        if (
            shutil.which("strace") is None
            or subprocess.run(["strace", "true"], capture_output=True, check=False).returncode
        ):
            pytest.skip("no strace here")

    def traced(self, here: Here, source: str, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
        trace = here.root / "trace"
        command = here.command("push", source, "--server", "main", "--config", str(here.config))
        done = subprocess.run(
            ["strace", "-f", "-y", "-o", str(trace), *options, *command],
            cwd=here.data,
            env={**here.env, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, trace.read_text()

    def in_order(self, trace: str, *steps: str) -> None:
        at = 0
        for step in (*steps, r"exit_group\(0\)"):
            found = re.compile(step).search(trace, at)
            assert found, f"{step} is not in, or too early in:\n{trace}"
            at = found.end()

    def test_a_queued_segment_is_synced_in_order_before_it_says_so(self, here: Here) -> None:
        here.push(pages.put(here.data / "pg_wal", 4))
        done, trace = self.traced(here, pages.put(here.data / "pg_wal", 5), "-e", "trace=fsync,link,exit_group")
        assert done.returncode == 0
        incoming, name = re.escape(here.layout.incoming), pages.name(5)
        self.in_order(
            trace,
            rf"fsync\(\d+<{incoming}/\.cellarman-{name}",
            rf'link\("{incoming}/\.cellarman-{name}\S+", "{incoming}/{name}"',
            rf"fsync\(\d+<{incoming}>",
        )

    def test_an_archived_file_is_synced_in_order_before_it_says_so(self, here: Here) -> None:
        done, trace = self.traced(here, pages.put(here.data / "pg_wal", 5), "-e", "trace=fsync,rename,exit_group")
        assert done.returncode == 0
        wals, name = re.escape(here.layout.wals), pages.name(5)
        self.in_order(
            trace,
            rf"fsync\(\d+<{wals}/\.cellarman-{name}",
            rf'rename\("{wals}/\.cellarman-{name}\S+", "{wals}/{name[:16]}/{name}"\)',
            rf"fsync\(\d+<{wals}/{name[:16]}>",
            rf"fsync\(\d+<{wals}/main-xlog.db>",
        )

    @pytest.mark.parametrize("which", ["queued file", "queue", *range(3, 7)])
    def test_a_sync_that_fails_is_never_acknowledged(self, here: Here, which: str | int) -> None:
        queued = isinstance(which, str)
        if queued:
            here.push(pages.put(here.data / "pg_wal", 4))
        source = pages.put(here.data / "pg_wal", 5)
        when = f":when={which}" if not queued else ""
        where = ["-P", here.layout.incoming] if which == "queue" else []
        done, trace = self.traced(here, source, *where, "-e", f"inject=fsync:error=EIO{when}")
        assert trace.count("(INJECTED)") == 1
        assert done.returncode == 1
        assert "Input/output error" in done.stderr
        assert here.push(source).returncode == 0
        assert here.get(pages.name(5)).returncode == 0
        assert here.delivered() == pages.content(5)

    def test_a_file_system_without_hard_links_serves_too(self, here: Here) -> None:
        identity.write(here.layout, pages.SYSTEM, 15)
        source = pages.put(here.data / "pg_wal", 5)
        done, trace = self.traced(
            here,
            source,
            "-e",
            "inject=link,copy_file_range,fadvise64:error=EPERM",
            "-e",
            "inject=fallocate:error=ENOSYS",
        )
        assert trace.count("(INJECTED)") >= 4
        assert done.returncode == 0, done.stderr
        assert here.get(pages.name(5)).returncode == 0
        assert here.delivered() == pages.content(5)
        done, _ = self.traced(here, pages.put(here.data / "pg_wal", 5, seed=1), "-e", "inject=link:error=EPERM")
        assert done.returncode == 1

    def test_a_read_that_fails_is_255(self, here: Here) -> None:
        here.push(pages.put(here.data / "pg_wal", 5))
        trace = here.root / "trace"
        command = here.command("get", pages.name(5), "pg_wal/R", "--server", "main", "--config", str(here.config))
        place = here.layout.wal(pages.name(5))
        done = subprocess.run(
            ["strace", "-f", "-o", str(trace), "-P", place, "-e", "inject=read:error=EIO", *command],
            cwd=here.data,
            env=here.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 255
        assert "Input/output error" in done.stderr
        assert trace.read_text().count("(INJECTED)") == 3
