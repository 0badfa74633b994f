"""Backups taken with real rsyncs, over a real sshd or on this host, from a real PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import google_crc32c
import pytest

from engine.backup import rsync, verify
from engine.backup.arrival import Arrival, Readers, crc32c
from engine.backup.inventory import Root
from engine.errors import CellarmanError, Refused
from engine.event import Lane, Silent
from engine.host.problems import HostError
from engine.postgres.backuplabel import parse_label
from engine.postgres.manifest import read_manifest
from engine.postgres.pagechecksum import PageCheck, segment_of
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.site import Site, processes, site
from tests.support.sshd import Far, sshd
from tests.support.standby import standby_of, switching

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
    return [*sessions, *processes("--protect-args", str(where.root))]


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


def link_of(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


@pytest.mark.parametrize("method", ["rsync", "local-rsync"])
def test_unchanged_files_are_linked_and_changed_ones_are_not(postgres: Install, far: Far, method: str) -> None:
    with (
        running(postgres, extra=["-k"]) as cluster,
        site(cluster, backup_method=method, reuse_backup="link", more=far.table()) as where,
    ):
        cluster.sql("CREATE TABLE still AS SELECT n, repeat(md5(n::text), 8) AS t FROM generate_series(1, 20000) n")
        cluster.sql("CREATE TABLE busy AS SELECT n FROM generate_series(1, 20000) n")
        cluster.sql("CHECKPOINT")
        paths = {name: cluster.value(f"SELECT pg_relation_filepath('{name}')") for name in ("still", "busy")}
        older(cluster)
        first, _ = take(where)
        assert first.deduplicated_size == first.size
        before = {
            path: path.read_bytes() for path in (where.repo / "base" / first.id / "data").rglob("*") if path.is_file()
        }
        cluster.sql("UPDATE busy SET n = n + 1 WHERE n % 100 = 0")
        second, heard = take(where)
        check_whole(where, second)
        old, new = (where.repo / "base" / info.id / "data" for info in (first, second))
        assert link_of(old / paths["still"]) == link_of(new / paths["still"])
        assert link_of(old / paths["busy"]) != link_of(new / paths["busy"])
        for name in ("backup_label", "backup_manifest", "global/pg_control"):
            assert link_of(old / name) != link_of(new / name)
        assert all(path.read_bytes() == content for path, content in before.items())
        assert second.size is not None and second.deduplicated_size is not None
        assert second.deduplicated_size < second.size / 2
        facts = repository.facts(where.server.layout, second.id)
        assert facts["reuse_of"] == first.id and facts["reused_bytes"] == second.size - second.deduplicated_size
        assert any("look unchanged since backup" in note for note in heard.notes)
        assert verify.verify(where.server, first).good


@pytest.mark.parametrize(
    ("rate", "limit", "whole"), [(1 << 30, 0, True), (1 << 30, 100_000, False), (1 << 20, 0, False)]
)
def test_changed_files_come_whole_over_a_quick_link(
    postgres: Install, far: Far, rate: int, limit: int, whole: bool
) -> None:
    with (
        running(postgres) as cluster,
        site(cluster, backup_method="rsync", reuse_backup="link", bandwidth_limit=limit, more=far.table()) as where,
    ):
        cluster.sql("CREATE TABLE busy AS SELECT n, repeat('x', 500) AS t FROM generate_series(1, 20000) n")
        first, _ = take(where)
        layout = where.server.layout
        repository.save_facts(layout, first.id, {**repository.facts(layout, first.id), "whole_rate": rate})
        cluster.sql("UPDATE busy SET n = n + 1 WHERE n % 1000 = 0")
        second, heard = take(where)
        check_whole(where, second)
        assert any("whole: the link is quick" in note for note in heard.notes) is whole
        assert repository.facts(layout, second.id)["whole_rate"] == rate


def older(cluster: Cluster) -> None:
    """Give the cluster's files times long before any backup, as tables have that nobody writes."""
    for place in (cluster.data / "base").rglob("*"):
        if place.is_file():
            os.utime(place, ns=(place.stat().st_atime_ns, place.stat().st_mtime_ns - 3600 * 10**9))


def test_a_file_that_changed_around_the_copy_is_never_trusted_by_its_time(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster, reuse_backup="link", **LOCAL) as where:
        odd = cluster.data / "base" / "odd"
        odd.write_bytes(b"a" * 100)
        first, _ = take(where)
        facts = repository.facts(where.server.layout, first.id)
        begun = datetime.fromisoformat(facts["copy_began"]).timestamp()
        # As if it had been written twice within one tick of the file system's clock, around its copy.
        for info, content in ((first, b"a" * 100), (None, b"b" * 100)):
            path = odd if info is None else where.repo / "base" / info.id / "data" / "base" / "odd"
            path.write_bytes(content)
            os.utime(path, (begun + 1, begun + 1))
        second, _ = take(where)
        assert (where.repo / "base" / second.id / "data" / "base" / "odd").read_bytes() == b"b" * 100
        assert (where.repo / "base" / first.id / "data" / "base" / "odd").read_bytes() == b"a" * 100


def test_reuse_by_copying(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster, reuse_backup="copy", **LOCAL) as where:
        cluster.sql("CREATE TABLE still AS SELECT n FROM generate_series(1, 20000) n")
        cluster.sql("CHECKPOINT")
        older(cluster)
        take(where)
        second, _ = take(where)
        check_whole(where, second)
        assert second.size == second.deduplicated_size


def test_from_a_standby(postgres: Install, tmp_path: Path) -> None:
    """Its backup begins at its last restartpoint, and the WAL from there, which came before the archive, is fetched."""
    with (
        running(postgres, extra=["--wal-segsize=1"]) as primary,
        standby_of(primary, tmp_path / "standby") as standby,
        site(standby, wal_timeout=60, **LOCAL) as where,
    ):
        where.run("cron")
        with switching(primary):
            info, heard = take(where)
        check_whole(where, info)
        assert info.backup_label is not None and "BACKUP FROM: standby" in info.backup_label
        data = where.repo / "base" / info.id / "data"
        assert not (data / "standby.signal").exists()
        assert any("standby ends no WAL segment" in note for note in heard.notes)
        assert left_behind(standby, where) == []


def test_configuration_that_lies_elsewhere_comes_too(postgres: Install, tmp_path: Path) -> None:
    with running(postgres) as cluster, site(cluster, **LOCAL) as where:
        cluster.stop()
        etc = tmp_path / "etc"
        etc.mkdir()
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(cluster.data / name, etc / name)
        with (etc / "postgresql.conf").open("a") as conf:
            conf.write(f"data_directory = '{cluster.data}'\nhba_file = '{etc}/pg_hba.conf'\n")
            conf.write(f"ident_file = '{etc}/pg_ident.conf'\ninclude = 'more.conf'\n")
        (etc / "more.conf").write_text("work_mem = '5MB'\n")
        postgres.run("pg_ctl", "-D", str(etc), "-l", str(cluster.root / "log"), "-w", "start")
        info, _ = take(where)
        check_whole(where, info)
        data = where.repo / "base" / info.id / "data"
        assert (data / "postgresql.conf").read_text() == (etc / "postgresql.conf").read_text()
        assert (data / "pg_hba.conf").exists() and (data / "pg_ident.conf").exists()
        assert info.included_files == (f"{etc}/more.conf",)


def test_a_corrupt_page_is_named_and_the_backup_is_done(postgres: Install, far: Far) -> None:
    with (
        running(postgres, extra=["-k"]) as cluster,
        site(cluster, backup_method="rsync", reuse_backup="link", network_compression=True, more=far.table()) as where,
    ):
        cluster.sql("CREATE DATABASE shop")
        cluster.sql("CREATE TABLE orders AS SELECT n FROM generate_series(1, 20000) n", dbname="shop")
        cluster.sql("CHECKPOINT", dbname="shop")
        [(path,)] = cluster.sql("SELECT pg_relation_filepath('orders')", dbname="shop")
        with (cluster.data / path).open("r+b") as file:
            file.seek(5 * 8192 + 4000)
            file.write(b"rotten")
        older(cluster)
        info, heard = take(where)
        check_whole(where, info)
        bad = {"file": path, "block": 5, "relation": "shop: public.orders"}
        facts = repository.facts(where.server.layout, info.id)
        assert facts["bad_pages"] == [bad] and facts["shape"].endswith(" on the way")
        assert any(path in note and "block 5" in note and "shop: public.orders" in note for note in heard.notes)
        # What is linked into the next backup is as bad there, though it is not read again.
        second, _ = take(where)
        assert repository.facts(where.server.layout, second.id)["bad_pages"] == [bad]
        result = rsync.work(where.config, where.server, Heard(), job="")
        assert "1 bad page" in result["summary"] and result["bad_pages"] == [bad]
        # Whoever looks at the catalogue sees it: the list, the backup itself, and check.
        assert "done, 1 bad page" in where.run("backups", "main").stdout
        listed = json.loads(where.run("backups", "main", "--json").stdout)["backups"]
        assert [backup["bad_pages"] for backup in listed] == [1, 1, 1]
        shown = where.run("show", "main", "latest").stdout
        assert "done, 1 bad page" in shown and path in shown and "block 5, of shop: public.orders" in shown
        assert "[{" not in shown and "{'" not in shown
        checked = json.loads(where.run("check", "main", "--json").stdout)["checks"]
        [pages] = [check for check in checked if check["name"] == "page checksums"]
        assert (
            pages["status"] == "warn"
            and path in pages["detail"]
            and f"cellarman --config {where.path} show main" in pages["fix"]
        )


def test_pages_are_read_as_postgresql_reads_them(each_postgres: Install, tmp_path: Path) -> None:
    """Every page that initdb and a few tables wrote is right, and each one is found out when a bit of it changes."""
    with running(each_postgres, extra=["-k"]) as cluster:
        cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n")
        cluster.sql("CREATE INDEX ON t (n)")
        cluster.sql("VACUUM t")
        cluster.stop()
        each_postgres.run("pg_checksums", "--check", "-D", str(cluster.data))
        wrong: list[tuple[bytes, int]] = []
        for flip in (False, True):
            wrong.clear()
            check = PageCheck(1 << 63, lambda path, block: wrong.append((path, block)))
            written = 0
            for place in cluster.data.rglob("*"):
                path = os.fsencode(place.relative_to(cluster.data))
                if place.is_file() and segment_of(path) is not None:
                    data = bytearray(place.read_bytes())
                    for at in range(0, len(data), 8192):
                        written += data[at + 14 : at + 16] != b"\0\0"
                        data[at + 5001] ^= flip
                    check.add(path, bytes(data), 0)
            check.flush()
            assert len(wrong) == (written if flip else 0) and written > 1000


def test_what_cannot_work_is_refused_before_anything_is_made(postgres: Install, far: Far) -> None:
    with running(postgres) as cluster:
        with site(cluster, **LOCAL) as where:
            cluster.sql("CREATE ROLE weak LOGIN IN ROLE pg_read_all_settings, pg_read_all_stats")
            cluster.sql("GRANT EXECUTE ON FUNCTION pg_switch_wal, pg_create_restore_point TO weak")
            where.configure(conninfo=cluster.conninfo.replace("user=postgres", "user=weak"), **LOCAL)
            with pytest.raises(Refused) as refused:
                take(where)
            assert "GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start" in refused.value.fix
            assert where.backups() == []
        table = far.table().replace(str(far.port), str(free_port()))
        with site(cluster, backup_method="rsync", more=table) as where:
            with pytest.raises(HostError) as unreachable:
                take(where)
            assert unreachable.value.kind == "refused" and where.backups() == []


def test_a_data_directory_that_becomes_another_clusters_is_fatal(postgres: Install) -> None:
    with running(postgres) as cluster, running(postgres) as other, site(cluster, **LOCAL) as where:
        # The server's first checkpoint, that of the backup, writes its own again.
        shutil.copy(other.data / "global" / "pg_control", cluster.data / "global" / "pg_control")
        with pytest.raises(CellarmanError, match="became another cluster"):
            take(where)
        [info] = where.backups()
        assert info.status == "FAILED" and left_behind(cluster, where) == []


def test_a_file_that_is_read_while_it_comes(tmp_path: Path) -> None:
    """Its checksum is that of the whole, also when rsync begins it anew under another temporary name."""
    content = os.urandom(5 << 20)
    root = Root(0, "/nowhere", str(tmp_path), ())
    for again in (False, True):
        arrivals: list[Arrival] = []
        with Readers(1, None, arrivals.append) as readers:
            coming = tmp_path / ".big.abcdef"
            coming.write_bytes(content[: 2 << 20])
            readers.follow(root, b"big")
            if again:
                coming.rename(tmp_path / "elsewhere")
            with coming.open("ab" if not again else "wb") as file:
                file.write(content if again else content[2 << 20 :])
            coming.rename(tmp_path / "big")
            readers.read(root, b"big")
        [arrival] = arrivals
        assert (arrival.size, arrival.checksum) == (len(content), crc32c(google_crc32c.value(content)))
    with Readers(1, None, arrivals.append) as readers:
        (tmp_path / ".gone.abcdef").write_bytes(content)
        readers.follow(root, b"gone")
    assert len(arrivals) == 1
