"""Backups taken with real rsyncs, over a real sshd or on this host, from a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backup import rsync, verify
from engine.errors import CellarmanError, Refused
from engine.event import Lane, Silent
from engine.postgres.backuplabel import parse_label
from engine.postgres.manifest import read_manifest
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from tests.support.cluster import Cluster, Install, running
from tests.support.site import Site, eventually, processes, site
from tests.support.sshd import Far, sshd

LOCAL = {"backup_method": "local-rsync"}


class Heard(Silent):
    """Remembers what a backup said."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.lanes: set[str] = set()
        self.copied: list[tuple[int, int | None, int | None, int | None]] = []

    def phase(self, name: str, detail: str = "") -> None:
        self.phases.append(name)

    def note(self, text: str, level: str = "info") -> None:
        self.notes.append(text)

    def progress(
        self,
        done_bytes: int,
        total_bytes: int | None = None,
        files_done: int | None = None,
        files_total: int | None = None,
        lanes: tuple[Lane, ...] = (),
    ) -> None:
        if self.phases[-1] == "copy":
            self.copied.append((done_bytes, total_bytes, files_done, files_total))
            self.lanes |= {lane.name for lane in lanes}


def take(where: Site, **arguments: object) -> tuple[BackupInfo, Heard]:
    heard = Heard()
    return rsync.take(where.server, report=heard, **arguments), heard  # type: ignore[arg-type]


def left_behind(cluster: Cluster, where: Site) -> list[object]:
    """Return what a backup must leave nowhere: sessions on the server, rsyncs here."""
    sessions = cluster.sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cellarman_backup_%'")
    return [*sessions, *processes("rsync", str(where.root))]


def check_whole(where: Site, info: BackupInfo) -> None:
    """Check what every finished backup must be."""
    layout = where.server.layout
    stored = repository.load(layout, info.id)
    assert stored.status == "DONE" and stored.usable and stored.mode == "rsync-concurrent"
    assert stored.backup_label is not None
    label = parse_label(stored.backup_label)
    assert (stored.begin_xlog, stored.begin_wal) == (label.start_lsn, label.start_wal)
    assert stored.end_xlog is not None and stored.end_xlog > label.start_lsn
    assert stored.begin_time is not None and stored.end_time is not None and stored.begin_time <= stored.end_time
    data = Path(layout.data(info.id))
    assert (data / "backup_label").read_text() == stored.backup_label
    assert (data / "backup_label").stat().st_mode & 0o777 == 0o644
    assert list((data / "pg_wal").iterdir()) == [] and not (data / "postmaster.pid").exists()
    assert not (data / "tablespace_map").exists() and list((data / "pg_tblspc").iterdir()) == []
    sizes = repository.sizes(layout, info.id)
    assert (stored.size, stored.deduplicated_size) == (sizes.size, sizes.deduplicated)
    verdict = verify.verify(where.server, stored)
    assert verdict.good, verdict.findings
    assert verdict.files == sizes.files - 1  # all but the manifest itself


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with sshd(tmp_path_factory.mktemp("far")) as there:
        yield there


def test_over_ssh_with_tablespaces_and_files_elsewhere(each_postgres: Install, far: Far, tmp_path: Path) -> None:
    space = tmp_path / "a space [1]*"
    space.mkdir()
    with (
        running(each_postgres, extra=["-k"]) as cluster,
        site(cluster, backup_method="rsync", parallel_jobs=3, more=far.table()) as where,
    ):
        cluster.sql(f"CREATE TABLESPACE one LOCATION '{space}'")
        cluster.sql("CREATE TABLE elsewhere TABLESPACE one AS SELECT generate_series(1, 100000) AS n")
        cluster.sql("CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 8) AS t FROM generate_series(1, 20000) n")
        oid = cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'")
        info, heard = take(where, name="before-upgrade", job="20261123000000-abcd")
        check_whole(where, info)
        assert heard.phases == ["checkpoint", "copy", "sync", "wal"]
        assert [(t.oid, t.location) for t in info.tablespaces] == [(oid, str(space))]
        assert list((where.repo / "base" / info.id / str(oid)).glob("PG_*/*/*"))
        assert info.backup_name == "before-upgrade" and info.compression is None and info.data_checksums == "on"
        facts = repository.facts(where.server.layout, info.id)
        assert facts["checked_pages"] > 1000 and facts["bad_pages"] == []
        done, total, files_done, files_total = heard.copied[-1]
        assert done == total and files_done == files_total
        assert any(name.startswith("base/") for name in heard.lanes)
        assert left_behind(cluster, where) == []
        manifest = read_manifest(str(where.repo / "base" / info.id / "data" / "backup_manifest"))
        assert any(file.path.startswith(f"pg_tblspc/{oid}/PG_") for file in manifest.files)
        assert [tuple(part) for part in manifest.wal_ranges] == [(1, info.begin_xlog, info.end_xlog)]


def test_pg_verifybackup_accepts_the_manifest(each_postgres: Install) -> None:
    with running(each_postgres) as cluster, site(cluster, **LOCAL) as where:
        info, _ = take(where)
        data = where.repo / "base" / info.id / "data"
        each_postgres.run("pg_verifybackup", "--no-parse-wal", str(data))
        (data / "global" / "pg_filenode.map").write_bytes(b"x" * 512)
        with pytest.raises(subprocess.CalledProcessError):
            each_postgres.run("pg_verifybackup", "--no-parse-wal", str(data))
        assert [finding.path for finding in verify.verify(where.server, info).findings] == ["global/pg_filenode.map"]
