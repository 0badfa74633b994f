"""A server with a history: rows, a restore point, a dropped table, and the moments between them; a repository of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2

from engine.backup import streaming
from engine.config import Config, Server, load
from engine.event import Level, Silent
from engine.recovery.plan import Order, Plan
from engine.recovery.planner import make_plan
from engine.recovery.restore import execute
from engine.recovery.settings import recovery_settings, render
from engine.recovery.target import EndOfArchive, Target
from engine.repository.backupinfo import BackupInfo
from engine.wal.ingest import ingest
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.waiting import until

CLIENT = os.path.join(os.path.dirname(sys.executable), "cellarman-wal")
SEGMENT = 1 << 20


@dataclass(frozen=True)
class Mark:
    """A moment of the history: everything up to it is `rows` rows."""

    rows: int
    at: datetime
    lsn: str
    xid: int


class TakesPort(Silent):
    """Listens on the port that a start has chosen, before the server can."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self.notes: list[str] = []

    def phase(self, name: str, detail: str = "") -> None:
        found = re.search(r"on port (\d+)", detail)
        if name == "start" and found and not self.taken:
            self.taken.append(socket.create_server(("127.0.0.1", int(found[1]))))

    def note(self, text: str, level: Level = "info") -> None:
        self.notes.append(text)

    def close(self) -> None:
        for one in self.taken:
            one.close()


@dataclass
class Scene:
    """The server, its configuration and repository, all below `root`."""

    root: Path
    cluster: Cluster
    config: Config
    marks: list[Mark] = field(default_factory=list)

    @property
    def server(self) -> Server:
        return self.config.server("main")

    def backup(self, **settings: Any) -> BackupInfo:
        return streaming.take(self.server, report=Silent(), **settings)

    def insert(self, count: int = 100) -> Mark:
        """Insert rows in one transaction and return the moment after it."""
        with contextlib.closing(psycopg2.connect(self.cluster.conninfo)) as connection:
            with connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO kept SELECT generate_series(1, %s) RETURNING pg_current_xact_id()", (count,)
                )
                xid = int(cursor.fetchone()[0])
            connection.commit()
        mark = Mark(
            self.cluster.value("SELECT count(*) FROM kept"),
            self.cluster.value("SELECT clock_timestamp()"),
            self.cluster.value("SELECT pg_current_wal_insert_lsn()"),
            xid,
        )
        self.marks.append(mark)
        return mark

    def archive_all(self) -> None:
        """Switch WAL and wait until all of it is pushed and taken in."""
        name = self.cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
        path = self.server.layout.wal(name)

        def archived() -> bool:
            ingest(self.server)
            return os.path.exists(path)

        until(archived, f"the archiving of {name}", 60, seen=lambda: self.cluster.log)

    def order(self, target: Target | None = None, **changes: Any) -> Order:
        arguments = {"destination": str(self.root / "restored"), "config_file": str(self.root / "cellarman.toml")}
        return Order("main", **{**arguments, "target": target or EndOfArchive(), **changes})

    def plan(self, target: Target | None = None, **changes: Any) -> Plan:
        return make_plan(self.server, self.order(target, **changes), now=datetime.now(timezone.utc))

    @contextlib.contextmanager
    def restored(self, target: Target | None = None, **changes: Any) -> Iterator[tuple[dict[str, Any], str]]:
        """Restore and start; yield the outcome and a conninfo, stop and remove it afterwards."""
        order = self.order(target, start=True, **changes)
        try:
            result = execute(order.to_arguments(), self.server, Silent())
            yield result, f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres"
        finally:
            self.remove(order.destination)

    def stopped(self, target: Target, **settings: str) -> str:
        """Return how recovery along the backup's timeline ends that is told to stop somewhere, whatever the plan says
        of that: "paused", or what PostgreSQL died of."""
        tried = Cluster(self.cluster.install, self.root / "tried", free_port())
        tried.root.mkdir()
        order = self.order(destination=str(tried.data), timeline="current")
        execute(order.to_arguments(), self.server, Silent())
        told = recovery_settings(target, timeline="current", action="pause", command="", major=tried.install.major)
        del told["restore_command"]
        with (tried.data / "postgresql.auto.conf").open("a") as conf:
            conf.write(render({**told, **settings}))
        tried.configure(port=str(tried.port), unix_socket_directories=str(tried.root))
        try:
            tried.install.run("pg_ctl", "-D", str(tried.data), "-l", str(tried.root / "log"), "-W", "start")
            return _ended(tried)
        finally:
            self.remove(str(tried.data))
            until(lambda: _removed(tried.root), "all that wrote there has ended")

    def remove(self, directory: str) -> None:
        """Stop the server in a directory and remove it."""
        pg_ctl = str(self.cluster.install.bindir / "pg_ctl")
        subprocess.run([pg_ctl, "-D", directory, "-m", "immediate", "-w", "stop"], capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)


def _removed(place: Path) -> bool:
    """Remove a directory in which a helper of the server that ran there may just be clearing up."""
    shutil.rmtree(place, ignore_errors=True)
    return not place.exists()


def _ended(tried: Cluster) -> str:
    """Wait for the end of a recovery; return "paused", or what PostgreSQL died of."""
    found: list[str] = []

    def said() -> bool:
        log = tried.log if (tried.root / "log").exists() else ""
        fatal = re.search(r"FATAL:  (?!the database system is)(.*)", log)
        found[:] = ["paused"] if "pausing at the end of recovery" in log else [fatal[1]] if fatal else []
        return bool(found)

    until(said, "recovery has ended")
    return found[0]


def value(conninfo: str, query: str) -> Any:
    """Return the one value that a query has."""
    with contextlib.closing(psycopg2.connect(conninfo, options="-c statement_timeout=20s")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]


@contextlib.contextmanager
def scene(install: Install, **settings: Any) -> Iterator[Scene]:
    """Run a server that archives into a repository, with an empty table; `settings` are the server's in the TOML."""
    root = Path(tempfile.mkdtemp(prefix="cm-rec-"))
    toml = root / "cellarman.toml"
    archive_command = f"{CLIENT} push %p --server main --config {toml}"
    try:
        with running(
            install, root / "pg", ["--wal-segsize=1"], archive_mode="on", archive_command=archive_command
        ) as cluster:
            toml.write_text(_toml(root, cluster, settings))
            cluster.sql("CREATE TABLE kept (i int)")
            yield Scene(root, cluster, load(str(toml)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _toml(root: Path, cluster: Cluster, settings: dict[str, Any]) -> str:
    server: dict[str, Any] = {
        "conninfo": cluster.conninfo,
        "streaming_conninfo": cluster.conninfo,
        "archiver": True,
        "immediate_checkpoint": True,
        "path_prefix": str(cluster.install.bindir),
        **settings,
    }
    lines = [f"[cellarman]\nbarman_home = '{root}/barman'\nstate_directory = '{root}/state'\n[servers.main]"]
    for key, item in server.items():
        lines.append(f"{key} = {str(item).lower() if isinstance(item, bool) else repr(item)}")
    return "\n".join(lines) + "\n"
