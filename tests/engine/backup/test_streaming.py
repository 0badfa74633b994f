"""Backups taken with a real pg_basebackup from a real, busy PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backup import contents, streaming, verify
from engine.backup.basebackup import Listener, Shape
from engine.errors import Busy, CellarmanError
from engine.event import Silent
from engine.postgres.backuplabel import parse_label
from engine.postgres.lsn import Lsn
from engine.repository import identity, locks, repository
from engine.repository.backupinfo import BackupInfo
from engine.wal.receiver import last_words
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.site import Site, processes, site
from tests.support.standby import standby_of, switching
from tests.support.waiting import until


class Heard(Silent):
    """Remembers what a backup said."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.last: tuple[int, int | None] = (0, None)
        self.copied: tuple[int, int | None] = (0, None)

    def phase(self, name: str, detail: str = "") -> None:
        self.phases.append(name)

    def note(self, text: str, level: str = "info") -> None:
        self.notes.append(text)

    def progress(self, done_bytes: int, total_bytes: int | None = None, *files: int | None, **more: int | None) -> None:
        if self.phases[-1] == "copy":
            self.copied = (done_bytes, total_bytes)


@contextlib.contextmanager
def pgbench(cluster: Cluster) -> Iterator[None]:
    """Keep the cluster busy."""
    cluster.install.run("pgbench", "-i", "-q", "-s", "1", cluster.conninfo)
    load = subprocess.Popen(
        [str(cluster.install.bindir / "pgbench"), "-c", "2", "-R", "60", "-T", "120", "-n", cluster.conninfo],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        load.kill()
        load.wait()


def take(where: Site, **arguments: object) -> tuple[BackupInfo, Heard]:
    heard = Heard()
    return streaming.take(where.server, report=heard, **arguments), heard  # type: ignore[arg-type]


def check_whole(where: Site, info: BackupInfo) -> None:
    """Check what every finished backup must be."""
    layout = where.server.layout
    stored = repository.load(layout, info.id)
    assert stored.status == "DONE" and stored.usable
    assert stored.backup_label is not None
    label = parse_label(stored.backup_label)
    assert (stored.begin_xlog, stored.begin_wal) == (label.start_lsn, label.start_wal)
    assert stored.begin_offset == label.start_lsn % stored.xlog_segment_size
    assert stored.end_xlog is not None and stored.end_xlog > label.start_lsn
    assert stored.begin_time is not None and stored.end_time is not None and stored.begin_time <= stored.end_time
    assert stored.systemid == identity.system_id(layout)
    assert all(os.path.exists(layout.wal(name)) for name in repository.required_wal(stored))
    assert stored.size == repository.sizes(layout, info.id).size
    verdict = verify.verify(where.server, stored)
    assert verdict.good, verdict.findings
    assert not processes("pg_basebackup", str(where.root))


def test_plain_backup_of_a_busy_server_with_tablespaces(each_postgres: Install, tmp_path: Path) -> None:
    (tmp_path / "space = one").mkdir()
    with running(each_postgres) as cluster, site(cluster) as where, pgbench(cluster):
        cluster.sql(f"CREATE TABLESPACE one LOCATION '{tmp_path / 'space = one'}'")
        cluster.sql("CREATE TABLE elsewhere TABLESPACE one AS SELECT generate_series(1, 1000)")
        oid = cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'")
        info, heard = take(where, name="before-upgrade", job="20261123000000-abcd")
        check_whole(where, info)
        assert heard.phases == ["checkpoint", "copy", "sync", "wal"]
        link = where.repo / "base" / info.id / "data" / "pg_tblspc" / str(oid)
        assert os.readlink(link) == str(where.repo / "base" / info.id / str(oid))
        assert list((where.repo / "base" / info.id / str(oid)).iterdir())
        assert info.backup_name == "before-upgrade" and info.compression is None
        facts = repository.facts(where.server.layout, info.id)
        assert facts["restore_point"] == f"barman_{info.id}" and Lsn.parse(facts["restore_point_lsn"])
        assert facts["job"] == "20261123000000-abcd" and facts["restore_settings"]["max_connections"] == "100"
        assert (where.repo / "base" / info.id / "data" / "backup_manifest").exists()


@pytest.mark.parametrize("codec", ["zstd", "lz4", "gzip"])
@pytest.mark.parametrize("location", ["server", "client"])
def test_tar_backup(debian_cluster: Cluster, codec: str, location: str) -> None:
    with site(debian_cluster, backup_compression=codec, backup_compression_location=location) as where:
        info, heard = take(where)
        check_whole(where, info)
        oid = debian_cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'")
        base = where.repo / "base" / info.id
        extension = {"zstd": "zst", "lz4": "lz4", "gzip": "gz"}[codec]
        names = {path.name for path in (base / "data").iterdir()}
        assert names == {f"base.tar.{extension}", f"{oid}.tar.{extension}", "backup_manifest"}
        assert list((base / str(oid)).iterdir()) == []
        assert info.compression == codec and info.is_tar
        with contents.open_tar(str(base / "data" / f"base.tar.{extension}")) as plain:
            assert tarfile.open(fileobj=plain, mode="r|").next().name == "backup_label"  # type: ignore[union-attr]
        # The server counts what it reads: the cluster's size, not that of the compressed files.
        done, total = heard.copied
        if done:
            assert total is not None and total > 2 * (info.size or 0)


@pytest.fixture(scope="module")
def debian_cluster(debian_postgres: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("tablespace")
    with running(debian_postgres) as server:
        server.sql("CREATE TABLE filler AS SELECT g, repeat(md5(g::text), 8) AS t FROM generate_series(1, 40000) g")
        server.sql(f"CREATE TABLESPACE one LOCATION '{place}'")
        server.sql("CREATE TABLE elsewhere TABLESPACE one AS SELECT generate_series(1, 1000)")
        yield server


def test_plain_backup_compressed_on_the_way(debian_cluster: Cluster) -> None:
    settings = {"backup_compression": "zstd", "backup_compression_format": "plain"}
    with site(debian_cluster, **settings) as where:
        info, _ = take(where)
        check_whole(where, info)
        assert info.compression is None and (where.repo / "base" / info.id / "data" / "PG_VERSION").exists()


def test_wal_by_archive_command_alone(postgres: Install, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    archive = f"cp %p {queue}/.%f.tmp && mv {queue}/.%f.tmp {queue}/%f"
    with (
        running(postgres, archive_mode="on", archive_command=archive) as cluster,
        site(cluster, archiver=True, streaming_archiver=False, incoming_wals_directory=str(queue)) as where,
    ):
        info, _ = take(where)
        check_whole(where, info)


def test_two_backups_of_an_idle_server(cluster: Cluster) -> None:
    with site(cluster) as where:
        first, _ = take(where)
        second, _ = take(where)
        assert second.id > first.id
        check_whole(where, first)
        check_whole(where, second)


def test_another_backup_running_is_named(cluster: Cluster) -> None:
    with site(cluster) as where:
        repository.prepare(where.server.layout)
        with locks.hold(where.server.layout.lock("backup")), pytest.raises(Busy) as refused:
            take(where)
        assert str(os.getpid()) in refused.value.why
        assert where.backups() == []


def test_wal_that_does_not_come_leaves_the_backup_waiting_and_says_why(postgres: Install) -> None:
    with (
        running(postgres, archive_mode="on", archive_command="rm %p") as cluster,
        site(cluster, archiver=True, streaming_archiver=False, wal_timeout=1) as where,
    ):
        with pytest.raises(CellarmanError) as late:
            take(where)
        [info] = where.backups()
        assert info.status == "WAITING_FOR_WALS" and not info.usable
        assert info.begin_wal is not None and info.begin_wal in late.value.why
        assert "cellarman cron" in late.value.now("")
        assert verify.verify(where.server, info).findings[-1].problem.startswith("is not in the archive")


def test_a_failing_archive_command_is_bounded_and_explained(postgres: Install) -> None:
    with (
        running(postgres, archive_mode="on", archive_command="false") as cluster,
        site(cluster, archiver=True, streaming_archiver=False, wal_timeout=1) as where,
    ):
        with pytest.raises(CellarmanError) as late:
            take(where)
        assert "archive_command" in str(late.value)
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None and "archive_command" in info.error
        assert not processes("pg_basebackup", str(where.root))


def test_a_server_that_goes_away_leaves_a_failed_backup(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster, bandwidth_limit=2048) as where:
        process = where.start("backup", "main")
        until(lambda: [j for j in where.jobs() if j["phase"] == "copy"], "the copy begins")
        cluster.stop("immediate")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 4, err
        [info] = where.backups()
        assert info.status == "FAILED" and info.error is not None and "pg_basebackup failed" in info.error
        assert sum(len(files) for _, _, files in os.walk(where.repo / "base")) == 0


def test_what_pg_basebackup_prints() -> None:
    said: list[str] = []
    listener = Listener(said.append)
    listener.feed(
        b"pg_basebackup: initiating base backup, waiting for checkpoint to complete\nwaiting for checkpoint\r"
    )
    assert listener.tick.phase == "checkpoint"
    listener.feed(b"pg_basebackup: checkpoint completed\n    15/38816 kB (0%), 0/1 table")
    assert (listener.tick.phase, listener.tick.received) == ("copy", None)
    listener.feed(b"space (/x)\n38826/38826 kB (100%), 1/1 tablespace\npg_basebackup: base backup completed\n")
    assert (listener.tick.phase, listener.tick.received) == ("copy", 38826 * 1024)
    assert said[0].startswith("initiating base backup") and len(said) == 3


def test_shapes_are_told() -> None:
    assert Shape(True, "gzip").base_tar == "base.tar.gz"
    assert Shape(False, "zstd").compression is None
    with pytest.raises(AttributeError):
        Shape().tar = True  # type: ignore[misc]


@pytest.mark.parametrize("form", [{}, {"backup_compression": "gzip"}], ids=["plain", "tar"])
def test_from_a_standby(each_postgres: Install, tmp_path: Path, form: dict[str, str]) -> None:
    """The WAL from its last restartpoint on, which came before the archive, is fetched; the rest comes by itself."""
    with (
        running(each_postgres, extra=["--wal-segsize=1"]) as primary,
        standby_of(primary, tmp_path / "standby") as standby,
        site(standby, wal_timeout=60, **form) as where,
    ):
        where.run("cron")
        with switching(primary):
            info, heard = take(where)
        check_whole(where, info)
        assert info.backup_label is not None and "BACKUP FROM: standby" in info.backup_label
        assert any("standby ends no WAL segment" in note for note in heard.notes)
        primary.sql("CREATE TABLE wine AS SELECT n FROM generate_series(1, 77) n")
        lsn = str(primary.value("SELECT pg_current_wal_lsn()"))
        primary.sql("DROP TABLE wine")
        primary.sql("SELECT pg_switch_wal()")
        port, data = free_port(), str(tmp_path / "back")
        words = ("restore", "main", "auto", data, "--to-lsn", lsn, "--exclusive", "--start", "--port", str(port))
        # A receiver that asked a standby too early asks again after a pause that doubles, up to a minute.
        until(
            lambda: (where.run("wal", "ingest", "main"), not where.run(*words, "--plan").returncode)[1],
            "the WAL to the target",
            120,
            seen=lambda: where.run(*words, "--plan").stdout + last_words(where.server.layout, 20),
        )
        restored = where.run(*words, "--yes", data)
        assert restored.returncode == 0, restored.stderr
        copy = Cluster(each_postgres, tmp_path, port, [])
        try:
            assert copy.value("SELECT count(*) FROM wine") == 77
        finally:
            each_postgres.run("pg_ctl", "-D", data, "-m", "immediate", "stop")
