"""Backups by rsync over SSH on loopback against Barman with the same method, and a cluster of many files."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from engine.host import openssh
from tests.bench.backups import Memory
from tests.bench.measure import Result, at_most, in_turn, ratio
from tests.interop import barman
from tests.support import cluster, programs
from tests.support.sshd import Far, sshd

RELATIONS = 100_000
_METHOD = {"backup_method": "rsync", "reuse_backup": "link", "compression": "none"}


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    newest = installs[max(installs)]
    with sshd(root / "far") as far:
        with cluster.running(newest, root / "pg", ["-k"], max_wal_size="8GB") as server:
            newest.run("pgbench", "-i", "-q", "-s", str(scale), server.conninfo)
            server.sql("CHECKPOINT")
            yield from _against_barman(root, server, far, repeat)
        with cluster.running(newest, root / "many") as server:
            yield from _many_files(root / "files", server, far)


def _against_barman(root: Path, server: cluster.Cluster, far: Far, repeat: int) -> Iterator[Result]:
    ours = programs.configure(root / "ours", server, **_METHOD, parallel_jobs=2)
    with ours.config.open("a") as config:
        config.write(far.table())
    ssh = shlex.join([*openssh.command(far.endpoint), openssh.destination(far.endpoint)])
    theirs = barman.configure(
        root / "theirs", server, **_METHOD, ssh_command=ssh, parallel_jobs="2", slot_name="barman"
    )
    home, their_home = root / "ours" / "barman" / "main", root / "theirs" / "barman" / "main"
    memory = Memory()
    with ours.spawned("wal", "receive", "main"), theirs.receiving(server):
        us, them = in_turn(
            repeat,
            (lambda: _forget(home / "base", home / "meta"), lambda: memory.watching(lambda: _ours(ours))),
            (lambda: _forget(their_home / "base", their_home / "meta"), lambda: _theirs(theirs)),
        )
        size = sum(path.stat().st_size for path in (home / "base").rglob("*") if path.is_file()) / 1e9
        yield ratio(f"first backup by rsync over ssh, {size:.1f} GB, checksums and manifest", us, them, "Barman", 0.7)
        us, them = in_turn(
            repeat,
            (lambda: _change(server), lambda: _ours(ours)),
            (lambda: None, lambda: _theirs(theirs)),
        )
        yield ratio("second backup with hard links, after a change of 1 %", us, them, "Barman", 0.6)
    data, copy = root / "far" / "ours", root / "far" / "theirs"
    there = far.endpoint
    on = f"{there.user}@{there.host}:{there.port}"
    us, them = in_turn(
        repeat,
        (lambda: _forget(data), lambda: _restore(ours, data, on)),
        (lambda: _forget(copy), lambda: _recover(theirs, copy, ssh)),
    )
    yield ratio("restore of the second backup over ssh, to its end", us, them, "Barman", 0.6)
    _forget(data, copy)
    yield at_most("resident memory of its worker", memory.peak / 1e6, 120, "MB")


def _ours(ours: programs.Cellarman) -> None:
    ours.run("backup", "main", "--wait")


def _theirs(theirs: barman.Barman) -> None:
    theirs.run("backup", theirs.server, "--wait", "--wait-timeout", "120")


def _restore(ours: programs.Cellarman, data: Path, on: str) -> None:
    ours.run("restore", "main", "latest", str(data), "--on", on, "--to-immediate", "--yes", str(data))
    assert (data / "PG_VERSION").exists()


def _recover(theirs: barman.Barman, data: Path, ssh: str) -> None:
    theirs.run("recover", "--remote-ssh-command", ssh, "--target-immediate", theirs.server, "latest", str(data))
    assert (data / "PG_VERSION").exists()


def _change(server: cluster.Cluster) -> None:
    server.sql(
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= (SELECT max(aid) / 100 FROM pgbench_accounts)"
    )
    server.sql("CHECKPOINT")
    subprocess.run(["sync"], check=True)


def _many_files(root: Path, server: cluster.Cluster, far: Far) -> Iterator[Result]:
    """Back up a cluster with many relations: each has a file of one page and two empty ones."""
    place = server.data / "base" / "99999"
    place.mkdir()
    page = bytes(8192)
    for number in range(RELATIONS):
        for fork in ("", "_fsm", "_vm"):
            with open(place / f"{100000 + number}{fork}", "wb") as file:
                file.write(page if fork == "" else b"")
    ours = programs.configure(root, server, backup_method="rsync")
    with ours.config.open("a") as config:
        config.write(far.table())
    memory = Memory()
    first = _FirstProgress(ours)
    with ours.spawned("wal", "receive", "main"):
        began = time.perf_counter()
        memory.watching(lambda: first.watching())
        took = time.perf_counter() - began
    yield at_most(f"{RELATIONS:,} relations, first progress of the copy after", first.seconds, 3, "s")
    yield at_most(f"{RELATIONS:,} relations, the whole backup", took, 3600, "s")
    yield at_most(f"{RELATIONS:,} relations, resident memory of the worker", memory.peak / 1e6, 120, "MB")


class _FirstProgress:
    """How long after the copy begins the job first says how far it is."""

    def __init__(self, ours: programs.Cellarman) -> None:
        self._ours = ours
        self.seconds = float("inf")

    def watching(self) -> None:
        argv = self._ours.argv("backup", "main", "--wait", "--json")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            copying = None
            for line in process.stdout:
                if '"event": "phase"' in line and '"copy"' in line:
                    copying = time.perf_counter()
                elif '"event": "progress"' in line and copying is not None and self.seconds == float("inf"):
                    self.seconds = time.perf_counter() - copying
        assert process.returncode == 0


def _forget(*places: Path) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["sync"], check=True)
