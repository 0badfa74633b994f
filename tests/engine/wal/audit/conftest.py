"""One server's life in real WAL: every kind of record, giant ones, a crash, a promotion; archived once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.config import Server
from engine.repository import repository
from engine.repository.layout import Layout
from engine.wal import archive
from tests.conftest import INSTALLS
from tests.support import wal
from tests.support.cluster import Cluster, Install, free_port, running
from tests.support.waiting import until


@dataclass
class Life:
    """What a server has archived."""

    install: Install
    files: Path
    """Its archived files, plain: timeline 1, and timeline 2 with its history."""
    system: int

    def segments(self, timeline: int = 0) -> list[str]:
        """Return the names of the segments, of one timeline or of all."""
        prefix = f"{timeline:08X}" if timeline else ""
        return sorted(n for n in os.listdir(self.files) if len(n) == 24 and n.startswith(prefix))


@dataclass
class Repo:
    """A repository that holds all of it."""

    root: Path
    life: Life
    server: Server

    @property
    def layout(self) -> Layout:
        return self.server.layout

    def path(self, name: str) -> Path:
        return Path(self.layout.wal(name))


@pytest.fixture(scope="session", params=sorted({max(INSTALLS), 15} & set(INSTALLS)), ids=lambda major: f"pg{major}")
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    install = INSTALLS[request.param]
    root = tmp_path_factory.mktemp("life")
    files = root / "archive"
    files.mkdir()
    command = f'cp "%p" "{files}/.%f" && mv "{files}/.%f" "{files}/%f"'
    settings = {
        "archive_mode": "on",
        "archive_command": command,
        "max_prepared_transactions": "10",
        "max_wal_size": "64MB",
    }
    with running(install, extra=["--wal-segsize=1"], **settings) as cluster:
        system = int(cluster.system_id)
        install.run("pg_basebackup", "-D", str(root / "base"), "-X", "none", "-c", "fast", "-d", cluster.conninfo)
        wal.write_everything(cluster)
        wal.cut_commit(cluster)
        cluster.sql("SELECT pg_logical_emit_message(false, 'x', repeat('q', 3500000))")
        cluster.stop("immediate")
        cluster.start()
        cluster.sql("SELECT pg_create_restore_point('here')")
        cluster.sql("CREATE TABLE dead AS SELECT generate_series(1, 60000)")
        cluster.sql("SELECT pg_switch_wal()")
        cluster.stop()
    _promote(install, root, command)
    yield Life(install, files, system)
    shutil.rmtree(root)


def _promote(install: Install, root: Path, command: str) -> None:
    """Recover to a point before the end and write on, on timeline 2."""
    second = Cluster(install, root / "second", free_port())
    second.root.mkdir()
    shutil.move(root / "base", second.data)
    (second.data / "recovery.signal").touch()
    second.configure(
        port=str(second.port),
        unix_socket_directories=str(second.root),
        restore_command=f'cp "{root}/archive/%f" "%p"',
        recovery_target_name="here",
        recovery_target_action="promote",
        archive_mode="on",
        archive_command=command,
    )
    second.start()
    try:
        until(lambda: not second.value("SELECT pg_is_in_recovery()"), "promotion")
        second.sql("CREATE TABLE alive AS SELECT generate_series(1, 60000)")
        second.sql("SELECT pg_switch_wal()")
        second.sql("CREATE TABLE more AS SELECT generate_series(1, 60000)")
        second.sql("SELECT pg_switch_wal()")
    finally:
        second.stop()


@pytest.fixture(scope="session")
def packed(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's home with all of it archived, compressed."""
    return _archived(life, tmp_path_factory.mktemp("packed"), "zstd")


@pytest.fixture(scope="session")
def plain(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, not compressed: where nothing but the audit sees a flipped bit."""
    return _archived(life, tmp_path_factory.mktemp("plain"), "none")


def _archived(life: Life, root: Path, compression: str) -> Path:
    server = Server("main", str(root))
    repository.prepare(server.layout)
    for name in sorted(os.listdir(life.files)):
        archive.store(server.layout, str(life.files / name), name, compression=compression)
    return root


@pytest.fixture
def repo(life: Life, plain: Path, tmp_path: Path) -> Repo:
    return _copied(life, plain, tmp_path)


@pytest.fixture
def packed_repo(life: Life, packed: Path, tmp_path: Path) -> Repo:
    return _copied(life, packed, tmp_path)


def _copied(life: Life, source: Path, tmp_path: Path) -> Repo:
    shutil.copytree(source, tmp_path / "home", symlinks=True)
    return Repo(tmp_path, life, Server("main", str(tmp_path / "home"), compression="none"))
