"""Recovery: segments fetched in sequence against cp, and a whole recovery to a time against pgBackRest."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Result, in_turn, rate, ratio
from tests.support import cluster, programs
from tests.support.programs import Cellarman
from tests.support.waiting import until

FULL_SCALE = 200
SEGMENTS = 60
"""Segments between the backup and the end at the full scale; fewer below it, but never less than a third."""


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    debian = [one for one in cluster.installs().values() if str(one.bindir).startswith("/usr/lib/postgresql")]
    if not debian or not shutil.which("pgbackrest"):
        yield Result("recovery against pgBackRest", "not measured", "wants Debian's two packages", False)
        return
    segments = max(SEGMENTS // 3, SEGMENTS * scale // FULL_SCALE)
    with cluster.running(debian[0], root / "server", max_wal_size="8GB", checkpoint_timeout="1h") as server:
        site = _fill(root, server, scale, segments)
        server.stop()
        yield _fetch(root, site, repeat)
        yield _recover(root, site, scale, segments, repeat)


@dataclass
class _Site:
    """A server that is backed up by both, and has written on."""

    server: cluster.Cluster
    ours: Cellarman
    rest: list[str]
    target: str


def _fill(root: Path, server: cluster.Cluster, scale: int, segments: int) -> _Site:
    ours = programs.configure(
        root, server, archiver=True, streaming_archiver=False, slot_name=None, compression="zstd", wal_timeout=120
    )
    rest = _pgbackrest(root, server)
    push = f"{' '.join(ours.wal('push', '%p', '--server', 'main'))} && {' '.join(rest)} archive-push %p"
    server.configure(archive_mode="on", archive_command=push, fsync="on")
    _pgbench(server, "-i", "-q", "-s", str(scale))
    subprocess.run([*rest, "stanza-create"], check=True)
    ours.run("cron")
    server.stop()
    server.start()
    subprocess.run([*rest, "--type=full", "backup"], check=True, stdout=subprocess.DEVNULL)
    with _passes(ours):
        ours.backup()
    begin = server.value("SELECT pg_current_wal_lsn()")
    written = f"SELECT (pg_current_wal_lsn() - '{begin}'::pg_lsn) / (16 << 20)"
    while server.value(written) < segments:
        _pgbench(server, "-n", "-c", "4", "-j", "2", "-T", "3")
    target = server.value("SELECT clock_timestamp()::text")
    server.sql("CREATE TABLE after_the_target ()")
    last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
    until(lambda: (server.value("SELECT last_archived_wal FROM pg_stat_archiver") or "") >= last, seconds=600)
    ours.run("wal", "ingest", "main")
    return _Site(server, ours, rest, target)


class _passes:
    """Ingests every half second, as the agent would."""

    def __init__(self, ours: Cellarman) -> None:
        line = f"while sleep 0.5; do {' '.join(ours.argv('wal', 'ingest', 'main'))} >/dev/null; done"
        self._argv = ["sh", "-c", line]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._argv)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _pgbackrest(root: Path, server: cluster.Cluster) -> list[str]:
    for name in ("repo", "log", "lock", "spool"):
        (root / "rest" / name).mkdir(parents=True)
    conf = root / "rest" / "pgbackrest.conf"
    conf.write_text(
        f"[global]\nrepo1-path={root}/rest/repo\nlog-path={root}/rest/log\nlock-path={root}/rest/lock\n"
        f"spool-path={root}/rest/spool\ncompress-type=zst\ncompress-level=1\nprocess-max=2\nstart-fast=y\n"
        f"repo1-retention-full=1\n[global:archive-get]\narchive-async=y\n"
        f"[main]\npg1-path={server.data}\npg1-port={server.port}\npg1-socket-path={server.root}\npg1-user=postgres\n"
    )
    return ["pgbackrest", f"--config={conf}", "--stanza=main"]


def _pgbench(server: cluster.Cluster, *arguments: str) -> None:
    at = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres"]
    server.install.run("pgbench", *arguments, *at)


def _fetch(root: Path, site: _Site, repeat: int) -> Result:
    """Both deliver as a recovering PostgreSQL has them deliver: by a shell, to one name, which then becomes the
    segment's."""
    stored = sorted((root / "barman/main/wals").glob("*/" + "?" * 24))[-SEGMENTS:]
    plain, data = root / "plain", root / "fetched"
    pg_wal = data / "pg_wal"
    plain.mkdir()
    for path in stored:
        subprocess.run(["zstd", "-dq", str(path), "-o", str(plain / path.name)], check=True)

    def empty() -> None:
        shutil.rmtree(data, ignore_errors=True)
        pg_wal.mkdir(parents=True)
        (data / "recovery.signal").touch()
        (data / "postmaster.pid").write_text(f"{os.getpid()}\n")

    def deliver(command: Callable[[str], list[str]]) -> None:
        for path in stored:
            subprocess.run(["sh", "-c", shlex.join(command(path.name))], check=True, cwd=data)
            os.rename(pg_wal / "RECOVERYXLOG", pg_wal / path.name)

    to = "pg_wal/RECOVERYXLOG"
    us, them = in_turn(
        repeat,
        (empty, lambda: deliver(lambda name: site.ours.wal("get", name, to, "--server", "main"))),
        (empty, lambda: deliver(lambda name: ["cp", str(plain / name), to])),
    )
    for path in stored:
        assert (pg_wal / path.name).stat().st_size == 16 << 20
    what = f"cellarman-wal get of zstd, {len(stored)} in sequence"
    return rate(what, len(stored) / us, len(stored) / them, "cp of plain ones", 1.0)


def _recover(root: Path, site: _Site, scale: int, segments: int, repeat: int) -> Result:
    data = root / "recovered" / "data"
    rows: list[int] = []

    def empty() -> None:
        _stop(site.server.install, data)
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True, mode=0o700)
        shutil.rmtree(root / "rest" / "spool")
        (root / "rest" / "spool").mkdir()
        subprocess.run(["sync"], check=True)

    def ours() -> None:
        words = ["--to-time", site.target, "--action", "promote", "--start", "--port", str(site.server.port)]
        site.ours.run("restore", "main", "auto", str(data), *words, "--yes", str(data))
        rows.append(_rows(site.server))

    def theirs() -> None:
        words = ["--type=time", f"--target={site.target}", "--target-action=promote", f"--pg1-path={data}"]
        subprocess.run([*site.rest, *words, "--archive-mode=off", "restore"], check=True)
        program = [str(site.server.install.bindir / "pg_ctl"), "-D", str(data), "-l", str(root / "log"), "-W", "start"]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
        rows.append(_rows(site.server))

    us, them = in_turn(repeat, (empty, ours), (empty, theirs))
    _stop(site.server.install, data)
    assert len(set(rows)) == 1, f"the recoveries differ: {rows}"
    what = f"recovery to a time, scale {scale}, {segments} segments"
    return ratio(what, us, them, "pgBackRest", 0.85)


def _rows(server: cluster.Cluster) -> int:
    """Wait until the recovered server is open for writing; return how many rows it has."""

    def opened() -> int | None:
        try:
            if server.value("SELECT pg_is_in_recovery()"):
                return None
            return int(server.value("SELECT count(*) FROM pgbench_history"))
        except cluster.psycopg2.OperationalError:
            return None

    began = time.monotonic()
    found = opened()
    while found is None and time.monotonic() - began < 600:
        time.sleep(0.05)
        found = opened()
    assert found is not None, "the recovered server did not open"
    return found


def _stop(install: cluster.Install, data: Path) -> None:
    if (data / "postmaster.pid").exists():
        install.run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
