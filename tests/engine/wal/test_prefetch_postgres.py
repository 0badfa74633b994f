"""Recoveries of real servers with segments made ready ahead: every row back, holes still FATAL, nothing left over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.wal.spool import UNDERWAY
from tests.conftest import INSTALLS
from tests.engine.wal import pages
from tests.engine.wal.test_client_postgres import CLIENT, MAJORS, Archived, ingested, missing, outcome, rows
from tests.engine.wal.test_prefetch import helpers
from tests.support.cluster import Cluster, running
from tests.support.waiting import until

SEGMENTS = 40


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def long(request: pytest.FixtureRequest) -> Iterator[Archived]:
    """Forty full segments of rows after a backup."""
    install = INSTALLS[request.param]
    root = Path(tempfile.mkdtemp(prefix="cm-prefetch-"))
    layout = pages.make_layout(root)
    config = root / "cellarman.toml"
    config.write_text(
        f'[cellarman]\nbarman_home = "{root}/home"\n'
        '[servers.main]\nconninfo = "host=/x"\narchiver = true\ncompression = "zstd"\n'
    )
    push = f"XDG_CACHE_HOME={root} {CLIENT} push %p --server main --config {config}"
    try:
        with running(
            install, root / "server", ["--wal-segsize=1"], archive_mode="on", archive_command=push, max_wal_size="1GB"
        ) as cluster:
            cluster.sql("CREATE TABLE t (n int, filler text)")
            cluster.install.run(
                "pg_basebackup", "-D", f"{root}/backup", "-d", cluster.conninfo, "-X", "none", "--no-sync", "-c", "fast"
            )
            begin = cluster.value("SELECT pg_current_wal_lsn()::text")
            while cluster.value(f"SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '{begin}')") < SEGMENTS << 20:
                cluster.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 2000) g")
            count = cluster.value("SELECT count(*) FROM t")
            last = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
            until(lambda: ingested(layout, last), "the last segment is archived", 60)
        yield Archived(install, root, layout, count)
    finally:
        shutil.rmtree(root)


def spools(cluster: Cluster) -> list[Path]:
    return list(cluster.root.glob(".cellarman-prefetch-*"))


def moved(cluster: Cluster, written: Archived) -> str:
    """Return a restore_command that notes each segment that was ready, by having nothing but the spool to link from."""
    note = f"ls {cluster.root}/.cellarman-prefetch-*/%f.* >> {cluster.root}/ready 2>/dev/null; "
    return note + written.restore_command()


def clean(cluster: Cluster) -> None:
    """Wait until nothing is left of the helper; nothing of it is in the data directory."""
    until(lambda: not spools(cluster) and not helpers(cluster.root), "spool and helper are gone")
    left = [
        name for _, _, files in os.walk(cluster.data) for name in files if "cellarman" in name or "RECOVERY" in name
    ]
    assert left == []


def test_every_row_comes_back_mostly_from_what_was_ready(long: Archived) -> None:
    cluster = long.restored("whole")
    cluster.configure(restore_command=moved(cluster, long))
    assert outcome(cluster) == "open", cluster.log
    assert rows(cluster) == long.rows
    ready = (cluster.root / "ready").read_text().splitlines()
    assert len(ready) > SEGMENTS // 2
    clean(cluster)


def test_a_hole_is_fatal(long: Archived) -> None:
    name = long.segments(1)[-5]
    away = missing(long.layout, name)
    try:
        cluster = long.restored("hole")
        assert f'could not restore file "{name}" from archive' in outcome(cluster)
        assert f"{name} is missing from the archive" in cluster.log
        clean(cluster)
    finally:
        away.rename(long.layout.wal(name))


def test_damage_is_fatal(long: Archived) -> None:
    name = long.segments(1)[-5]
    place = Path(long.layout.wal(name))
    good = place.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    try:
        place.write_bytes(damaged)
        cluster = long.restored("flipped")
        assert f'could not restore file "{name}" from archive' in outcome(cluster)
        clean(cluster)
    finally:
        place.write_bytes(good)


def _kill_helper(cluster: Cluster) -> None:
    for helper in helpers(cluster.root):
        os.kill(helper, signal.SIGKILL)


def _scramble(cluster: Cluster) -> None:
    for spool in spools(cluster):
        for path in spool.glob("0*"):
            if not path.name.endswith(UNDERWAY):
                (cluster.root / "scrambled").write_bytes(bytes(100))
                _replace(cluster.root / "scrambled", path)


def _replace(new: Path, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # the spool has ended
        new.rename(path)


def _remove(cluster: Cluster) -> None:
    for spool in spools(cluster):
        shutil.rmtree(spool, ignore_errors=True)


@pytest.mark.parametrize("harm", [_kill_helper, _scramble, _remove])
def test_a_helper_that_is_harmed_again_and_again_harms_nothing(
    long: Archived, harm: Callable[[Cluster], None], request: pytest.FixtureRequest
) -> None:
    cluster = long.restored(harm.__name__)
    cluster.install.run("pg_ctl", "-D", str(cluster.data), "-l", str(cluster.root / "log"), "-W", "start")
    done = "database system is ready to accept connections"

    def harmed() -> bool:
        harm(cluster)
        return done in cluster.log or "shut down" in cluster.log

    try:
        until(harmed, "recovery ends", 60)
        assert done in cluster.log, cluster.log
        assert cluster.value("SELECT count(*) FROM t") == long.rows
        until(lambda: not helpers(cluster.root), "the helper has ended")
    finally:
        cluster.stop("immediate")


def test_a_killed_postmaster_takes_the_spool_along(long: Archived) -> None:
    """Paused at a target, recovery is not over: a helper may be there until the server goes."""
    cluster = long.restored("killed", recovery_target="immediate", recovery_target_action="pause")
    cluster.install.run("pg_ctl", "-D", str(cluster.data), "-l", str(cluster.root / "log"), "-W", "start")
    until(lambda: "pausing at the end of recovery" in cluster.log, "it pauses")
    until(lambda: spools(cluster), "there is a spool")
    os.kill(int((cluster.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    clean(cluster)
    shutil.rmtree(cluster.data / "pg_wal", ignore_errors=True)
