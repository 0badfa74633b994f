"""pg_control, against pg_controldata of every PostgreSQL here."""

from __future__ import annotations

import pytest

from engine.postgres.controlfile import ControlFileError, read_control
from tests.support import wal
from tests.support.cluster import Cluster, Install, running


def told(cluster: Cluster) -> dict[str, str]:
    """Return what pg_controldata prints, by label."""
    printed = cluster.install.run("pg_controldata", "-D", str(cluster.data)).stdout
    return {key: value.strip() for key, _, value in (line.partition(":") for line in printed.splitlines())}


def assert_agrees(cluster: Cluster) -> None:
    theirs = told(cluster)
    mine = read_control((cluster.data / "global" / "pg_control").read_bytes())
    pairs = {
        "pg_control version number": mine.version,
        "Catalog version number": mine.catalog,
        "Database system identifier": mine.system_id,
        "Database cluster state": mine.state,
        "Latest checkpoint's TimeLineID": mine.timeline,
        "Latest checkpoint's PrevTimeLineID": mine.previous_timeline,
        "Latest checkpoint's NextXID": f"{mine.next_xid >> 32}:{mine.next_xid & 0xFFFFFFFF}",
        "Min recovery ending loc's timeline": mine.min_recovery_timeline,
        "End-of-backup record required": "yes" if mine.backup_end_required else "no",
        "wal_level setting": mine.wal_level,
        "wal_log_hints setting": "on" if mine.wal_log_hints else "off",
        "max_connections setting": mine.max_connections,
        "max_worker_processes setting": mine.max_worker_processes,
        "max_wal_senders setting": mine.max_wal_senders,
        "max_prepared_xacts setting": mine.max_prepared_xacts,
        "max_locks_per_xact setting": mine.max_locks_per_xact,
        "track_commit_timestamp setting": "on" if mine.track_commit_timestamp else "off",
        "Database block size": mine.block_size,
        "WAL block size": mine.wal_block_size,
        "Bytes per WAL segment": mine.segment_size,
    }
    assert {label: theirs[label] for label in pairs} == {label: str(value) for label, value in pairs.items()}
    places = {
        "Latest checkpoint location": mine.checkpoint_lsn,
        "Latest checkpoint's REDO location": mine.redo_lsn,
        "Minimum recovery ending location": mine.min_recovery_lsn,
        "Backup start location": mine.backup_start_lsn,
        "Backup end location": mine.backup_end_lsn,
    }
    assert {label: wal.place(theirs[label]) for label in places} == {label: str(lsn) for label, lsn in places.items()}
    assert (theirs["Data page checksum version"] != "0") == mine.data_checksums


def test_it_says_what_pg_controldata_says(each_postgres: Install) -> None:
    settings = {"max_connections": "33", "max_prepared_transactions": "7", "max_worker_processes": "11"}
    with running(
        each_postgres,
        extra=["--wal-segsize=64", "--data-checksums"],
        wal_log_hints="on",
        track_commit_timestamp="on",
        max_locks_per_transaction="65",
        min_wal_size="256MB",
        restore_command="false",
        **settings,
    ) as cluster:
        cluster.sql("CREATE TABLE t (a int); CHECKPOINT")
        assert_agrees(cluster)
        cluster.stop()
        assert_agrees(cluster)
        (cluster.data / "standby.signal").touch()
        cluster.start()
        assert_agrees(cluster)
        cluster.install.run("pg_ctl", "-D", str(cluster.data), "-w", "promote")
        cluster.sql("CHECKPOINT")
        assert_agrees(cluster)
        data = (cluster.data / "global" / "pg_control").read_bytes()
    assert read_control(data).timeline == 2
    for position in (8, 40, 120, 229, 280):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(ControlFileError):
            read_control(bytes(broken))


def test_what_is_no_control_file_is_refused() -> None:
    with pytest.raises(ControlFileError, match="0 bytes"):
        read_control(b"")
    with pytest.raises(ControlFileError, match="version 0"):
        read_control(bytes(8192))
