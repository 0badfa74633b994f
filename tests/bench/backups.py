"""Backup and restore of a pgbench cluster against pg_basebackup, cp and pgBackRest."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import Result, at_most, in_turn, ratio
from tests.support import cluster, programs


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    newest = installs[max(installs)]
    with _filled(newest, root / "new", scale) as server:
        yield from _plain(root / "plain", server, repeat)
    debian = [install for install in installs.values() if str(install.bindir).startswith("/usr/lib/postgresql")]
    if debian and shutil.which("pgbackrest"):
        with _filled(debian[0], root / "debian", scale) as server:
            yield _against_pgbackrest(root / "zstd", server, repeat)
    else:
        yield Result("backup with zstd against pgBackRest", "not measured", "wants Debian's two packages", False)


@contextmanager
def _filled(install: cluster.Install, root: Path, scale: int) -> Iterator[cluster.Cluster]:
    """Run a server with a pgbench database."""
    settings = {"max_wal_size": "4GB", "archive_mode": "on", "archive_command": "/bin/true"}
    with cluster.running(install, root, **settings) as server:
        install.run("pgbench", "-i", "-q", "-s", str(scale), *_at(server))
        server.sql("CHECKPOINT")
        yield server


def _at(server: cluster.Cluster) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres"]


def _plain(root: Path, server: cluster.Cluster, repeat: int) -> Iterator[Result]:
    ours = programs.configure(root, server)
    home = root / "barman" / "main"
    bare = root / "bare"
    argv = [str(server.install.bindir / "pg_basebackup"), "-d", server.conninfo, "-D", str(bare), "-X", "none"]
    memory = Memory()
    with ours.spawned("wal", "receive", "main"):
        us, them = in_turn(
            repeat,
            (
                lambda: _forget(home / "base", home / "meta"),
                lambda: memory.watching(lambda: ours.run("backup", "main")),
            ),
            (lambda: _forget(bare), lambda: subprocess.run([*argv, "-c", "fast", "--no-slot"], check=True)),
        )
    size = sum(path.stat().st_size for path in (home / "base").rglob("*") if path.is_file()) / 1e9
    yield ratio(f"plain backup of {size:.1f} GB", us, them, "pg_basebackup", 1.05)
    yield at_most("resident memory of its worker", memory.peak / 1e6, 60, "MB")

    _forget(bare)
    backup = ours.json("backups", "main")["backups"][0]["id"]
    data, copy = root / "restored" / "data", root / "copied"
    us, them = in_turn(
        repeat,
        (
            lambda: _forget(data),
            lambda: memory.watching(
                lambda: ours.run("restore", "main", backup, str(data), "--to-immediate", "--yes", str(data))
            ),
        ),
        (
            lambda: _forget(copy),
            lambda: subprocess.run(["sh", "-c", f"cp -a {home}/base/{backup}/data {copy} && sync"], check=True),
        ),
    )
    yield ratio(f"restore of it, {size:.1f} GB", us, them, "cp -a + sync", 1.10)
    yield at_most("resident memory of the workers, restore included", memory.peak / 1e6, 60, "MB")


def _against_pgbackrest(root: Path, server: cluster.Cluster, repeat: int) -> Result:
    ours = programs.configure(
        root, server, backup_compression="zstd", backup_compression_location="server", backup_compression_level=1,
        backup_compression_workers=2,
    )  # fmt: skip
    home = root / "barman" / "main"
    for name in ("repo", "log", "lock", "spool"):
        (root / "rest" / name).mkdir(parents=True)
    conf = root / "rest" / "pgbackrest.conf"
    conf.write_text(
        f"[global]\nrepo1-path={root}/rest/repo\nlog-path={root}/rest/log\nlock-path={root}/rest/lock\n"
        f"spool-path={root}/rest/spool\ncompress-type=zst\ncompress-level=1\nprocess-max=2\nstart-fast=y\n"
        f"archive-check=n\nrepo1-retention-full=1\n[main]\npg1-path={server.data}\npg1-port={server.port}\n"
        f"pg1-socket-path={server.root}\npg1-user=postgres\n"
    )
    rest = ["pgbackrest", f"--config={conf}", "--stanza=main"]
    subprocess.run([*rest, "stanza-create"], check=True)
    with ours.spawned("wal", "receive", "main"):
        us, them = in_turn(
            repeat,
            (lambda: _forget(home / "base", home / "meta"), lambda: ours.run("backup", "main")),
            (lambda: _forget(root / "rest/repo/backup/main/latest"), lambda: _full(rest)),
        )
    return ratio("full backup, server-side zstd, 2 workers", us, them, "pgBackRest", 0.85)


def _full(rest: list[str]) -> None:
    subprocess.run([*rest, "--type=full", "backup"], check=True, stdout=subprocess.DEVNULL)


def _forget(*places: Path) -> None:
    for place in places:
        if place.is_symlink():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["sync"], check=True)


class Memory:
    """The peak resident memory of job workers, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()

    def watching(self, work: Callable[[], object]) -> None:
        """Do the work while looking at workers."""
        self._stop.clear()
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            work()
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                self._look(process)

    def _look(self, process: Path) -> None:
        try:
            if b"engine.job.worker" in (process / "cmdline").read_bytes():
                high = [row for row in (process / "status").read_text().splitlines() if row.startswith("VmHWM")]
                self.peak = max(self.peak, int(high[0].split()[1]) * 1024)
        except (OSError, IndexError):
            return  # it has ended
