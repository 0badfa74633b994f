"""cellarman-wal as archive_command and restore_command of real servers: every row back, or FATAL, no silent end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config import Server
from engine.recovery import settings
from engine.repository import xlogdb
from engine.repository.layout import Layout
from engine.wal import codec
from engine.wal.ingest import ingest
from tests.conftest import INSTALLS
from tests.engine.wal import pages
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.waiting import until

CLIENT = os.path.join(os.path.dirname(sys.executable), "cellarman-wal")
MAJORS = [major for major in sorted(INSTALLS) if major in (15, max(INSTALLS))]


@dataclass
class Archived:
    """A server that was backed up, wrote on, and is stopped; its WAL is in the archive."""

    install: Install
    root: Path
    layout: Layout
    rows: int

    def restored(self, name: str, **settings: str) -> Cluster:
        """Copy the backup and set it up to recover from the archive; not started."""
        place = self.root / name
        place.mkdir()
        shutil.copytree(self.root / "backup", place / "data", symlinks=True)
        (place / "data").chmod(0o700)
        cluster = Cluster(self.install, place, free_port())
        cluster.configure(
            port=str(cluster.port),
            unix_socket_directories=str(place),
            **{"archive_mode": "off", "restore_command": self.restore_command(), **settings},
        )
        (place / "data" / "recovery.signal").touch()
        return cluster

    def restore_command(self, options: str = "") -> str:
        return f'{CLIENT} get %f "%p" --server main --config {self.root}/cellarman.toml {options}'

    def segments(self, timeline: int) -> list[str]:
        names = {line.name for line in xlogdb.read(self.layout).lines}
        return sorted(name for name in names if len(name) == 24 and int(name[:8], 16) == timeline)


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def written(request: pytest.FixtureRequest) -> Iterator[Archived]:
    """Rows 1..8, one to a segment, after a backup; all of the WAL pushed."""
    install = INSTALLS[request.param]
    root = Path(tempfile.mkdtemp(prefix="cm-wal-"))
    layout = pages.make_layout(root)
    config = root / "cellarman.toml"
    config.write_text(
        f'[cellarman]\nbarman_home = "{root}/home"\n[servers.main]\nconninfo = "host=/x"\narchiver = true\n'
    )
    try:
        with running(
            install,
            root / "server",
            ["--wal-segsize=1"],
            archive_mode="on",
            archive_command=f"XDG_CACHE_HOME={root} {CLIENT} push %p --server main --config {config}",
        ) as cluster:
            _write(cluster, root)
            rows = cluster.value("SELECT count(*) FROM t")
            last = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
            until(lambda: ingested(layout, last), "the last segment is archived")
            assert cluster.value("SELECT failed_count FROM pg_stat_archiver") == 0
        yield Archived(install, root, layout, rows)
    finally:
        until(lambda: not list(root.glob("*/.cellarman-prefetch-*")), "the helpers have ended and cleared up")
        shutil.rmtree(root)


def _write(cluster: Cluster, root: Path) -> None:
    cluster.sql("CREATE TABLE t (n int)")
    cluster.install.run(
        "pg_basebackup", "-D", str(root / "backup"), "-d", cluster.conninfo, "-X", "none", "--no-sync", "-c", "fast"
    )
    for number in range(8):
        cluster.sql("SELECT pg_switch_wal()")
        cluster.sql(f"INSERT INTO t VALUES ({number})")


def ingested(layout: Layout, name: str) -> bool:
    """Tell whether a segment is archived, taking in what has arrived."""
    assert ingest(Server("main", os.path.dirname(layout.home))).refused == ()
    return os.path.exists(layout.wal(name))


def outcome(cluster: Cluster) -> str:
    """Start a recovery and return "open" or the log's last FATAL line."""
    subprocess.run(
        [cluster.install.bindir / "pg_ctl", "-D", cluster.data, "-l", cluster.root / "log", "-W", "start"],
        check=True,
        capture_output=True,
    )
    try:
        until(lambda: "database system is ready to accept connections" in cluster.log or _down(cluster), "an end")
        if not _down(cluster):
            return "open"
        return [line for line in cluster.log.splitlines() if "FATAL" in line][-1]
    finally:
        if not _down(cluster):
            rows = cluster.value("SELECT count(*) FROM t")
            (cluster.root / "rows").write_text(str(rows))
        cluster.stop("immediate")


def _down(cluster: Cluster) -> bool:
    return "database system is shut down" in cluster.log


def rows(cluster: Cluster) -> int:
    return int((cluster.root / "rows").read_text())


def missing(layout: Layout, name: str) -> Path:
    """Move a segment out of the archive; return where it is."""
    place = Path(layout.wal(name))
    away = place.with_name("." + name)
    place.rename(away)
    return away


def test_a_whole_archive_brings_every_row_back(written: Archived) -> None:
    cluster = written.restored("whole")
    assert outcome(cluster) == "open"
    assert rows(cluster) == written.rows == 8


def test_a_hole_is_fatal_and_no_promotion(written: Archived) -> None:
    name = written.segments(1)[-3]
    away = missing(written.layout, name)
    try:
        cluster = written.restored("hole")
        assert f'could not restore file "{name}" from archive' in outcome(cluster)
        assert f"{name} is missing from the archive" in cluster.log
        assert not (cluster.data / "postmaster.pid").exists()
        assert (cluster.data / "recovery.signal").exists()
        salvage = written.restored("salvage", restore_command=written.restore_command("--accept-gap"))
        assert outcome(salvage) == "open"
        assert 0 < rows(salvage) < written.rows
        assert name in Path(written.layout.own, "accepted-gaps.log").read_text()
    finally:
        away.rename(written.layout.wal(name))


def test_a_flipped_bit_is_fatal(written: Archived) -> None:
    place = Path(written.layout.wal(written.segments(1)[-3]))
    good = place.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    try:
        place.write_bytes(damaged)
        assert "could not restore file" in outcome(written.restored("flipped"))
    finally:
        place.write_bytes(good)


def test_a_recovery_that_damage_would_end_is_fatal(written: Archived) -> None:
    """However it got there: before it promotes, PostgreSQL asks for the next timeline's history."""
    plain = written.root / "plain"
    plain.mkdir()
    for name in written.segments(1):
        (plain / name).write_bytes(codec.read_segment(written.layout.wal(name)))
    ask = written.restore_command()
    command = f'case %f in *.history) {ask};; *) cp "{plain}/%f" "%p";; esac'
    assert outcome(written.restored("unharmed", restore_command=command)) == "open"
    damaged = plain / written.segments(1)[-3]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:60] + bytes([good[60] ^ 1]) + good[61:])
    cluster = written.restored("damaged", restore_command=command)
    assert 'could not restore file "00000002.history" from archive' in outcome(cluster)
    assert f"recovery would end in {damaged.name}" in cluster.log
    salvage = written.restored(
        "accepted", restore_command=command.replace(ask, written.restore_command("--accept-gap"))
    )
    assert outcome(salvage) == "open"


def test_a_broken_installation_is_fatal(written: Archived) -> None:
    """Python exits with 1 when it cannot load the program, and PostgreSQL takes 1 for the end of all WAL."""
    program = installed(written.root / "broken", f"#!{sys.executable}\nimport engine_that_is_not_there\n")
    command = settings.restore_command(program, "main", "")
    assert "could not restore file" in outcome(written.restored("broken-installation", restore_command=command))
    whole = settings.restore_command(CLIENT, "main", f"{written.root}/cellarman.toml")
    assert outcome(written.restored("guarded", restore_command=whole)) == "open"


def installed(place: Path, client: str) -> str:
    """Install the shell script with another client beside it, and return its path."""
    place.mkdir()
    script = place / "cellarman-wal"
    script.write_bytes(Path(CLIENT).read_bytes())
    (place / "cellarman-wal-client").write_text(client)
    for path in place.iterdir():
        path.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("client", "code"),
    [("exit 0", 0), ("exit 1", 255), ("exit 100", 1), ("exit 126", 255), ("exit 255", 255), ("kill -TERM $$", -15)],
)
def test_the_guard(tmp_path: Path, client: str, code: int) -> None:
    program = installed(tmp_path / "bin", f"#!/bin/sh\n{client}\n")
    get = [program, "get", "000000010000000000000001", "pg_wal/RECOVERYXLOG", "--server", "main"]
    assert subprocess.run(get, cwd=tmp_path, check=False).returncode == code


def test_another_clusters_archive_is_fatal(written: Archived) -> None:
    cluster = written.restored("alien")
    control = cluster.data / "global" / "pg_control"
    other = pages.make_layout(cluster.root)
    config = cluster.root / "cellarman.toml"
    config.write_text(f'[cellarman]\nbarman_home = "{cluster.root}/home"\n[servers.main]\nconninfo = "host=/x"\n')
    system = int.from_bytes(control.read_bytes()[:8], "little")
    for name in written.segments(1):
        data = codec.read_segment(written.layout.wal(name))
        os.makedirs(os.path.dirname(other.wal(name)), exist_ok=True)
        Path(other.wal(name)).write_bytes(data[:24] + (system + 1).to_bytes(8, "little") + data[32:])
    cluster.configure(restore_command=f'{CLIENT} get %f "%p" --server main --config {config}')
    assert "could not restore file" in outcome(cluster)
    assert "it belongs to the system" in cluster.log


def test_a_failing_client_is_fatal(written: Archived) -> None:
    command = f'{CLIENT} get %f "%p" --server nobody --config {written.root}/cellarman.toml'
    assert "could not restore file" in outcome(written.restored("client", restore_command=command))


def test_a_switch_of_timelines_and_its_dead_branch(written: Archived) -> None:
    """Promote halfway, archive timeline 2, recover along it; without its first segment: FATAL, not the dead branch."""
    push = f"{CLIENT} push %p --server main --config {written.root}/cellarman.toml"
    halfway = written.segments(1)[-4]
    target = f"0/{int(halfway[8:16], 16) * 2**32 + int(halfway[16:], 16) * 2**20:X}"
    promoted = written.restored(
        "promoted",
        archive_mode="on",
        archive_command=push,
        recovery_target_lsn=target,
        recovery_target_action="promote",
        recovery_target_timeline="1",
    )
    promoted.start()
    try:
        until(lambda: not promoted.value("SELECT pg_is_in_recovery()"), "promoted")
        before = promoted.value("SELECT count(*) FROM t")
        promoted.sql("INSERT INTO t VALUES (100)")
        last = promoted.value("SELECT pg_walfile_name(pg_switch_wal())")
        until(lambda: ingested(written.layout, last), "timeline 2 is archived")
    finally:
        promoted.stop()
    first = written.segments(2)[0]
    try:
        along = written.restored("along")
        assert outcome(along) == "open"
        assert rows(along) == before + 1 < written.rows
        straight = written.restored("straight", recovery_target_timeline="1")
        assert outcome(straight) == "open"
        assert rows(straight) == written.rows
        for name in written.segments(2)[1:]:
            os.unlink(written.layout.wal(name))
        missing(written.layout, first)
        hazard = written.restored("hazard")
        assert f'could not restore file "{first}" from archive' in outcome(hazard)
        assert "dead branch" in hazard.log
    finally:
        shutil.rmtree(os.path.dirname(written.layout.wal(first)))
        os.unlink(written.layout.wal("00000002.history"))
