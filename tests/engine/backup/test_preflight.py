"""What forbids a backup: each is said with why and what to do, and nothing is made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.site import Site, site


def refused(where: Site, code: int, what: str, why: str = "", now: str = "") -> str:
    """Run a backup that must not come to be, and return what it said."""
    done = where.run("backup", "main")
    assert done.returncode == code, done.stderr
    lines = re.split(r"^(why|now): ", done.stderr, flags=re.MULTILINE)
    said = dict(zip(lines[1::2], lines[2::2], strict=True))
    assert what in lines[0]
    assert why in said.get("why", "")
    assert now in said.get("now", "")
    assert where.backups() == []
    assert not (where.repo / "base").exists() or not list((where.repo / "base").iterdir())
    assert where.jobs()[0]["status"] == "failed"
    return done.stderr


def test_server_down(cluster: Cluster) -> None:
    dead = cluster.conninfo.replace(str(cluster.port), str(free_port()))
    with site(cluster, conninfo=dead) as where:
        refused(where, 4, "cannot connect", "Connection refused", "start the server")


def test_wal_level_minimal(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster) as where:
        cluster.configure(wal_level="minimal", max_wal_senders="0")
        cluster.stop()
        cluster.start()
        refused(where, 3, "too little WAL", "wal_level is minimal", "ALTER SYSTEM SET wal_level = replica")


def test_no_free_wal_sender(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster) as where:
        cluster.configure(max_wal_senders="1")
        cluster.stop()
        cluster.start()
        refused(where, 3, "too few free WAL senders", "max_wal_senders = 1", "raise max_wal_senders")


def test_no_free_slot(postgres: Install) -> None:
    with running(postgres) as cluster, site(cluster) as where:
        cluster.configure(max_replication_slots="1")
        cluster.stop()
        cluster.start()
        cluster.sql("SELECT pg_create_physical_replication_slot('other')")
        refused(where, 3, "slot cellarman cannot be made", "1 slots", "max_replication_slots")
        where.configure(create_slot="manual")
        refused(where, 3, "slot cellarman is not there", "manual", "pg_create_physical_replication_slot")


def test_no_right_to_stream(cluster: Cluster) -> None:
    cluster.sql("CREATE ROLE plain LOGIN")
    with site(cluster, streaming_conninfo=cluster.conninfo.replace("user=postgres", "user=plain")) as where:
        refused(where, 4, "cannot connect", "", "REPLICATION")


def test_missing_rights_are_named_with_their_grants(cluster: Cluster) -> None:
    cluster.sql("CREATE ROLE watcher LOGIN")
    with site(
        cluster, conninfo=cluster.conninfo.replace("user=postgres", "user=watcher"), streaming_conninfo=cluster.conninfo
    ) as where:
        said = refused(where, 3, "watcher may not do", "no superuser", "GRANT")
        assert 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_switch_wal() TO "watcher"' in said


def test_a_role_with_just_these_rights_is_enough(cluster: Cluster) -> None:
    cluster.sql("CREATE ROLE barman LOGIN REPLICATION")
    cluster.sql("GRANT pg_read_all_settings, pg_read_all_stats TO barman")
    for function in ("pg_switch_wal()", "pg_create_restore_point(text)"):
        cluster.sql(f"GRANT EXECUTE ON FUNCTION {function} TO barman")
    with site(cluster, conninfo=cluster.conninfo.replace("user=postgres", "user=barman")) as where:
        done = where.run("backup", "main")
        assert done.returncode == 0, done.stderr
        assert "warn" not in done.stderr


def test_an_older_pg_basebackup(debian_postgres: Install, postgres: Install) -> None:
    if debian_postgres.major >= postgres.major:
        pytest.skip("only one PostgreSQL here")
    with running(postgres) as cluster, site(cluster, path_prefix=str(debian_postgres.bindir)) as where:
        environment = {"PATH": str(debian_postgres.bindir)}
        done = where.run("backup", "main", env=environment)
        assert done.returncode == 3, done.stderr
        assert f"of version {postgres.major} or newer" in done.stderr and str(debian_postgres.bindir) in done.stderr
        assert where.backups() == []


def test_compression_that_the_server_cannot_do(cluster: Cluster) -> None:
    with site(cluster, backup_compression="zstd") as where:
        refused(where, 3, "the server cannot compress with it", "zstd".upper(), "backup_compression_location")
        where.configure(backup_compression="zstd", backup_compression_location="client")
        refused(where, 3, "the client cannot compress with it", "", "another backup_compression")


def test_another_cluster_in_the_same_repository(postgres: Install, cluster: Cluster) -> None:
    with running(postgres) as other, site(cluster) as where:
        assert where.run("backup", "main").returncode == 0
        where.configure(conninfo=other.conninfo)
        done = where.run("backup", "main")
        assert done.returncode == 3 and "another cluster" in done.stderr
        assert len(where.backups()) == 1


def test_two_connection_strings_to_two_clusters(postgres: Install, cluster: Cluster) -> None:
    with running(postgres) as other, site(cluster, streaming_conninfo=other.conninfo) as where:
        refused(where, 3, "different clusters", "system identifiers", "correct them")


def test_a_name_that_is_taken(cluster: Cluster) -> None:
    with site(cluster) as where:
        assert where.run("backup", "main", "--name", "mine").returncode == 0
        done = where.run("backup", "main", "--name", "mine")
        assert done.returncode == 2 and "taken" in done.stderr
        assert len(where.backups()) == 1


def test_a_repository_that_cannot_be_written(cluster: Cluster) -> None:
    with site(cluster) as where:
        (where.root / "repo").mkdir(mode=0o500)
        refused(where, 3, "the repository cannot be written", "cannot be written by this account", "ls -ld")
        (where.root / "repo").chmod(0o700)


@pytest.fixture
def tiny(cluster: Cluster) -> Iterator[tuple[Site, list[str]]]:
    """A site, and a command that gives its repository a file system of its own: as many MiB as its first argument."""
    wrapper = [
        "unshare",
        "-Urm",
        "sh",
        "-c",
        'mount -t tmpfs -o size="$1"m,"$2" none "$3" && shift 3 && exec "$@"',
        "-",
    ]
    if not shutil.which("unshare") or subprocess.run([*wrapper, "1", "rw", "/mnt", "true"], check=False).returncode:
        pytest.skip("no file systems of our own here")
    with site(cluster) as where:
        (where.root / "repo").mkdir()
        yield where, wrapper


def in_tiny(tiny: tuple[Site, list[str]], size: int, mode: str) -> subprocess.CompletedProcess[str]:
    """Back up, wait for the job inside the file system's own world, and list what is left."""
    where, wrapper = tiny
    script = (
        f"cd {where.root}/repo; {sys.executable} -m engine.cli.main backup main; code=$?; ls -R .;"
        f" {sys.executable} -m engine.cli.main backups main;"
        " test ! -e .main-receive-wal.lock || kill $(cat .main-receive-wal.lock); exit $code"
    )
    return subprocess.run(
        [*wrapper, str(size), mode, str(where.root / "repo"), "sh", "-c", script],
        env={**os.environ, "CELLARMAN_CONFIG": str(where.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_full_repository(tiny: tuple[Site, list[str]]) -> None:
    done = in_tiny(tiny, 20, "rw")
    assert done.returncode == 3, done.stderr
    assert "too little room" in done.stderr and "MiB are needed" in done.stderr
    assert "backup.info" not in done.stdout


def test_a_read_only_repository(tiny: tuple[Site, list[str]]) -> None:
    done = in_tiny(tiny, 20, "ro")
    assert done.returncode == 3, done.stderr
    assert "mounted read-only" in done.stderr


def test_a_repository_that_becomes_full_on_the_way(tiny: tuple[Site, list[str]], cluster: Cluster) -> None:
    where, _ = tiny
    where.configure(backup_compression="gzip", backup_compression_location="server", backup_compression_level=1)
    cluster.sql("CREATE TABLE IF NOT EXISTS noise AS SELECT gen_random_bytes FROM (SELECT sha512(g::text::bytea)"
                " AS gen_random_bytes FROM generate_series(1, 900000) g) s")  # fmt: skip
    done = in_tiny(tiny, 70, "rw")
    assert done.returncode == 4, done.stderr
    assert "No space left on device" in done.stderr
    assert "failed" in done.stdout and "base.tar" not in done.stdout
    cluster.sql("DROP TABLE noise")
