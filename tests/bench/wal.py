"""WAL into the archive: a pass over a queue against Barman's, single pushes against cp with fsync; and its index."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Result, at_least, in_turn, rate
from tests.interop import barman
from tests.support import cluster, programs

SEGMENTS = 100
PUSHES = 40
TINY_COMMITS = 3_000_000
"""About 87,000 a segment."""


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    with cluster.running(installs[max(installs)], max_wal_size="8GB", checkpoint_timeout="1h") as server:
        segments = _segments(server, root / "segments")
        yield _ingest(root / "ingest", server, segments, repeat)
        yield _push(root / "push", server, segments[:PUSHES], repeat)
        yield _index(root / "pgbench", server, segments, repeat, "pgbench's WAL", 600)
        yield _index(root / "dense", server, _dense(server), repeat, "WAL of tiny commits", 200)


def _segments(server: cluster.Cluster, place: Path) -> list[Path]:
    """Return 100 segments of a pgbench run, with the full pages that follow a checkpoint."""
    place.mkdir()
    server.sql("ALTER SYSTEM SET archive_mode = on")
    server.sql(f"ALTER SYSTEM SET archive_command = 'cp %p {place}/%f'")
    server.stop()
    server.start()
    at = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres"]
    server.install.run("pgbench", "-i", "-q", "-s", "50", *at)
    while len(list(place.glob("0*"))) <= SEGMENTS:
        server.sql("CHECKPOINT")
        server.install.run("pgbench", "-n", "-c", "4", "-j", "2", "-T", "3", *at)
    return sorted(place.glob("0*"))[1 : SEGMENTS + 1]


def _dense(server: cluster.Cluster) -> list[Path]:
    """Return segments that hold little but tiny transactions."""
    server.sql("ALTER SYSTEM SET archive_command = 'true'")
    server.sql("ALTER SYSTEM SET wal_keep_size = '2GB'")
    server.sql("ALTER SYSTEM SET synchronous_commit = off")
    server.sql("SELECT pg_reload_conf()")
    server.sql("CREATE TABLE tiny (n int, filler text)")
    server.sql("SELECT pg_switch_wal()")
    first = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    server.sql(
        f"DO $$ BEGIN FOR n IN 1..{TINY_COMMITS} LOOP INSERT INTO tiny VALUES (n, repeat('x', 90)); COMMIT;"
        " END LOOP; END $$"
    )
    now = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    return sorted(path for path in (server.data / "pg_wal").glob("0*") if first < path.name < now)


def _index(root: Path, server: cluster.Cluster, segments: list[Path], repeat: int, whose: str, limit: float) -> Result:
    """Index an archive anew with one processor, every record verified."""
    ours = programs.configure(root, server, archiver=True, streaming_archiver=False, slot_name=None, compression="zstd")
    _queue(root, segments)
    ours.run("wal", "ingest", "main")
    [took] = in_turn(
        repeat,
        (
            lambda: None,
            lambda: subprocess.run(["taskset", "-c", "0", *ours.argv("wal", "reindex", "main")], check=True),
        ),
    )
    plain = sum(path.stat().st_size for path in segments) / 2**20
    return at_least(f"wal reindex of {len(segments)} segments, {whose}", plain / took, limit, "MiB/s a core")


def _ingest(root: Path, server: cluster.Cluster, segments: list[Path], repeat: int) -> Result:
    settings = {"archiver": True, "streaming_archiver": False, "slot_name": None, "compression": "zstd"}
    ours = programs.configure(root / "ours", server, **settings)
    theirs = barman.configure(
        root / "theirs", server, archiver="on", streaming_archiver="off", compression="zstd", archiver_batch_size="0"
    )
    us, them = in_turn(
        repeat,
        (lambda: _queue(root / "ours", segments), lambda: ours.run("wal", "ingest", "main")),
        (lambda: _queue(root / "theirs", segments), lambda: theirs.run("archive-wal", "main")),
    )
    for side in ("ours", "theirs"):
        kept = len(list((root / side / "barman/main/wals").glob("*/*")))
        assert kept == len(segments), f"{side}: {kept} of {len(segments)} segments were archived"
    what = f"wal ingest with zstd, {len(segments)} segments"
    return rate(what, len(segments) / us, len(segments) / them, "barman archive-wal", 3)


def _queue(root: Path, segments: list[Path]) -> None:
    """Empty the repository and put the segments into its queue."""
    home = _empty(root)
    for segment in segments:
        shutil.copy2(segment, home / "incoming")
    subprocess.run(["sync", "-f", str(home)], check=True)


def _empty(root: Path) -> Path:
    """Make the server's directories anew and return their home."""
    home = root / "barman" / "main"
    shutil.rmtree(home, ignore_errors=True)
    for name in ("base", "meta", "wals", "incoming", "streaming", "errors", ".cellarman"):
        (home / name).mkdir(parents=True)
    return home


def _push(root: Path, server: cluster.Cluster, segments: list[Path], repeat: int) -> Result:
    settings = {"archiver": True, "streaming_archiver": False, "slot_name": None, "compression": "zstd"}
    ours = programs.configure(root / "ours", server, **settings)
    plain = root / "plain"

    def empty() -> None:
        _empty(root / "ours")
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir(parents=True)

    def push() -> None:
        for segment in segments:
            subprocess.run(ours.wal("push", str(segment), "--server", "main"), check=True)

    def copy() -> None:
        for segment in segments:
            new = plain / segment.name
            line = f"cp {segment} {new}.tmp && sync {new}.tmp && mv {new}.tmp {new} && sync {plain}"
            subprocess.run(["sh", "-c", line], check=True)

    us, them = in_turn(repeat, (empty, push), (empty, copy))
    return rate("cellarman-wal push in sequence, durable", len(segments) / us, len(segments) / them, "cp + fsync", 0.9)
