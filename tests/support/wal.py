"""Real WAL for tests: servers made to write every kind of record that matters, and pg_waldump's word for it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import psycopg2

from engine.postgres import walfile
from engine.postgres.lsn import Lsn
from tests.support.cluster import Cluster, Install, running

_LINE = re.compile(r"rmgr: (\S+) +len \(rec/tot\): +\d+/ *\d+, tx: +(\d+), lsn: (\S+), prev \S+, desc: (.*)")
_ENDS = ("COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED")


@dataclass
class Dump:
    """What pg_waldump reads in a run of segments."""

    ends: list[tuple[str, int, str, str, bool]] = field(default_factory=list)
    """(LSN, xid, time, kind, whether files are dropped)"""
    restore_points: list[tuple[str, str]] = field(default_factory=list)
    checkpoints: list[tuple[str, str, bool]] = field(default_factory=list)
    """(LSN, redo, whether at shutdown)"""
    backup_ends: list[tuple[str, str]] = field(default_factory=list)
    promotions: list[str] = field(default_factory=list)
    switches: int = 0
    last: str = ""


@contextlib.contextmanager
def server(install: Install, segment_mb: int, **settings: str) -> Iterator[Cluster]:
    """Start a server that keeps all of its WAL in segments of `segment_mb` megabytes."""
    settings.setdefault("min_wal_size", f"{max(80, 4 * segment_mb)}MB")
    with running(
        install,
        extra=[f"--wal-segsize={segment_mb}"],
        wal_keep_size="2GB",
        max_wal_size="2GB",
        max_prepared_transactions="10",
        **settings,
    ) as cluster:
        yield cluster


def pgbench(cluster: Cluster, *arguments: str) -> None:
    cluster.install.run("pgbench", *arguments, "-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres", "postgres")


def write_everything(cluster: Cluster) -> None:
    """Make the server write ends of transactions of all kinds, landmarks, and records that cross pages and segments."""
    pgbench(cluster, "-i", "-s", "1", "-q")
    cluster.sql("SELECT pg_create_restore_point('first one')")
    pgbench(cluster, "-c", "4", "-t", "300")
    cluster.sql("CHECKPOINT")
    cluster.sql("CREATE TABLE doomed AS SELECT g AS a, repeat(md5(g::text), 30) AS b FROM generate_series(1, 2000) g")
    with contextlib.closing(psycopg2.connect(cluster.conninfo)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            _write_transactions(cursor)
    cluster.sql("DROP TABLE doomed")
    cluster.sql("TRUNCATE pgbench_history")
    cluster.sql("SELECT pg_create_restore_point(repeat('n', 63))")
    backup_here = str(cluster.root / "backup")
    cluster.install.run("pg_basebackup", "-D", backup_here, "-X", "none", "-c", "fast", "-d", cluster.conninfo)
    shutil.rmtree(backup_here)
    cluster.sql("SELECT pg_switch_wal()")
    pgbench(cluster, "-c", "2", "-t", "100")


def _write_transactions(cursor: psycopg2.extensions.cursor) -> None:
    for number in range(12):
        cursor.execute("BEGIN; INSERT INTO doomed VALUES (1, 'x'); SAVEPOINT s; INSERT INTO doomed VALUES (1, 'y')")
        cursor.execute(f"CREATE TABLE t{number} (a int); PREPARE TRANSACTION 'number {number}'")
        cursor.execute(f"{'COMMIT' if number % 2 else 'ROLLBACK'} PREPARED 'number {number}'")
        cursor.execute(f"BEGIN; CREATE TABLE r{number} AS SELECT 1 AS a; ROLLBACK")
    cursor.execute("BEGIN; DROP TABLE t1; PREPARE TRANSACTION 'drops'")
    cursor.execute("COMMIT PREPARED 'drops'")
    cursor.execute("SELECT pg_replication_origin_create('origin'), pg_replication_origin_session_setup('origin')")
    cursor.execute("BEGIN; INSERT INTO doomed VALUES (2, 'z'); SELECT pg_replication_origin_xact_setup('0/64', now())")
    cursor.execute("COMMIT; SELECT pg_replication_origin_session_reset()")
    for size in (*range(0, 100_000, 9_000), 3_000_000):
        cursor.execute("SELECT pg_logical_emit_message(false, 'x', repeat('q', %s))", (size,))


def cut_commit(cluster: Cluster) -> Lsn:
    """Make a server with segments of 1 MB write a commit that crosses a segment's end; returns where it begins."""
    left = "SELECT (1 << 20) - mod(pg_current_wal_insert_lsn() - '0/0', 1 << 20)"
    cluster.sql("CREATE TABLE subtransactions (a int)")
    with contextlib.closing(psycopg2.connect(cluster.conninfo)) as connection, connection.cursor() as cursor:
        # The commit record lists all subtransactions: 36 kB.
        cursor.execute(
            "DO $$ BEGIN FOR i IN 1..9000 LOOP BEGIN INSERT INTO subtransactions VALUES (i);"
            " EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$"
        )
        for _ in range(1000):
            cursor.execute(left)
            if cursor.fetchone()[0] < 30_000:
                break
            cursor.execute("SELECT pg_logical_emit_message(false, 'x', repeat('q', 4000))")
        cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
        place_before = Lsn.parse(cursor.fetchone()[0])
        connection.commit()
    return place_before


def segments(cluster: Cluster) -> list[Path]:
    """Return the segments in pg_wal up to the one being written, by name."""
    newest = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    names = sorted(name for name in os.listdir(cluster.data / "pg_wal") if re.fullmatch(r"[0-9A-F]{24}", name))
    return [cluster.data / "pg_wal" / name for name in names if name <= newest]


def dump(install: Install, files: list[Path], timeline: int = 1) -> Dump:
    """Return pg_waldump's reading of consecutive segments; it ends where it finds no valid record."""
    found = Dump()
    command = ["-p", str(files[0].parent), "-t", str(timeline), files[0].name, files[-1].name]
    for line in _output(install, command).splitlines():
        match = _LINE.match(line)
        assert match, line
        manager, xid, lsn, text = match.groups()
        found.last = place(lsn)
        kind = text.split()[0]
        if manager == "Transaction" and kind in _ENDS:
            found.ends.append(_end(kind, int(xid), lsn, text))
        elif manager == "XLOG":
            _landmark(found, kind, lsn, text)
    return found


def _output(install: Install, arguments: list[str]) -> str:
    import subprocess

    # It exits with 1 when it meets the end of the WAL, which is what it is asked to find.
    command = [str(install.bindir / "pg_waldump"), *arguments]
    environment = {"LC_ALL": "C", "TZ": "UTC"}
    return subprocess.run(command, text=True, capture_output=True, env=environment, timeout=120, check=False).stdout


def place(text: str) -> str:
    """Return an LSN as `Lsn` prints it, whatever zeros the version of pg_waldump pads it with."""
    return str(Lsn.parse(text.strip(",;")))


def _end(kind: str, xid: int, lsn: str, text: str) -> tuple[str, int, str, str, bool]:
    words = text.split()
    if "PREPARED" in kind:
        return place(lsn), int(words[1].rstrip(":")), f"{words[2]} {words[3]}", kind.lower(), "; rels" in text
    return place(lsn), xid, f"{words[1]} {words[2]}", kind.lower(), "; rels" in text


def _landmark(found: Dump, kind: str, lsn: str, text: str) -> None:
    if kind == "RESTORE_POINT":
        found.restore_points.append((place(lsn), text.split(" ", 1)[1]))
    elif kind in ("CHECKPOINT_SHUTDOWN", "CHECKPOINT_ONLINE"):
        found.checkpoints.append((place(lsn), place(text.split()[2]), kind == "CHECKPOINT_SHUTDOWN"))
    elif kind == "BACKUP_END":
        found.backup_ends.append((place(lsn), place(text.split()[1])))
    elif kind == "END_OF_RECOVERY":
        found.promotions.append(place(lsn))
    elif kind == "SWITCH":
        found.switches += 1


def last_record(data: bytes) -> int:
    """Return where the last record of a segment begins."""
    header = walfile.read_header(data)
    begin = walfile.walk(data, header).last_record_lsn
    assert begin is not None
    return begin - header.address


def ended_sooner(data: bytes) -> bytes:
    """Return a segment as it would be if its server had switched one record earlier: right in itself."""
    switch = last_record(data)
    (link,) = struct.unpack_from("<Q", data, switch + 8)
    at = link - walfile.read_header(data).address
    head = data[switch : switch + 8] + data[at + 8 : at + 16] + data[switch + 16 : switch + 20]
    record = head + google_crc32c.value(head).to_bytes(4, "little")
    return data[:at] + record + bytes(len(data) - at - len(record))
