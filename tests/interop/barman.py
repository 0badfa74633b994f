"""Real Barman, run as a program from an environment of its own. It is never imported."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.programs import Outcome, run
from tests.support.waiting import until


def program() -> str:
    """Return the path of Barman's program, beside our own virtual environment or on the PATH."""
    beside = Path(sys.prefix) / "barman" / "bin" / "barman"
    found = str(beside) if beside.exists() else shutil.which("barman")
    if found is None:
        pytest.skip("no Barman here: make test installs one")
    if shutil.which("rsync") is None or shutil.which("file") is None:
        pytest.skip("Barman needs the programs rsync and file")
    return found


@dataclass
class Barman:
    """Barman with one configuration file and one server."""

    config: Path
    server: str

    def run(self, *words: str, code: int | None = 0) -> Outcome:
        return run([program(), "-c", str(self.config), *words], code=code)

    def json(self, *words: str, code: int | None = 0) -> Any:
        return json.loads(self.run("-f", "json", *words, code=code).out)

    def ids(self) -> list[str]:
        """Return the ids of the server's backups, newest first."""
        return [backup["backup_id"] for backup in self.json("list-backups", self.server)[self.server]]

    @contextmanager
    def receiving(self, cluster: Cluster) -> Iterator[None]:
        """Run Barman's own receive-wal meanwhile, with a first segment archived, without which it takes no backup."""
        self.run("receive-wal", "--create-slot", self.server, code=None)
        with self.config.with_name("receive-wal.log").open("wb") as log:
            argv = [program(), "-c", str(self.config), "receive-wal", self.server]
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: list(self.streaming.glob("*.partial")), what="Barman's receive-wal")
            self.archive(cluster)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)

    @property
    def streaming(self) -> Path:
        return self.config.parent / "barman" / self.server / "streaming"

    def archive(self, cluster: Cluster) -> None:
        """Have everything committed until now in the archive."""
        cluster.sql("SELECT pg_create_restore_point('for barman')")
        name = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
        cluster.sql("CHECKPOINT")
        until(lambda: (self.streaming / name).exists(), what=f"the reception of {name}")
        self.run("archive-wal", self.server)

    def backup(self, *words: str) -> str:
        """Take a backup with Barman, wait for its WAL, and return its id, which is its second: Barman writes over a
        backup that began in the same one."""
        until(
            lambda: not (self.streaming.parent / "base" / f"{datetime.now():%Y%m%dT%H%M%S}").exists(),
            what="the next second",
        )
        self.run("backup", self.server, "--wait", "--wait-timeout", "60", *words)
        return self.ids()[0]


def configure(root: Path, cluster: Cluster, *, name: str = "main", **settings: str) -> Barman:
    """Write a Barman configuration for the same server and the same repository as `programs.configure`."""
    values = {
        "description": "interop",
        "conninfo": cluster.conninfo,
        "streaming_conninfo": cluster.conninfo,
        "backup_method": "postgres",
        "streaming_archiver": "on",
        "archiver": "off",
        "slot_name": "cellarman",
        "immediate_checkpoint": "true",
        "path_prefix": str(cluster.install.bindir),
        **settings,
    }
    (root / "barman").mkdir(parents=True, exist_ok=True)
    general = {
        "barman_user": getpass.getuser(),
        "barman_home": str(root / "barman"),
        "log_file": str(root / "barman.log"),
        "log_level": "INFO",
        "lock_directory_cleanup": "false",
    }
    lines = ["[barman]", *(f"{key} = {value}" for key, value in general.items())]
    lines += [f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
    config = root / "barman.conf"
    config.write_text("\n".join(lines) + "\n")
    return Barman(config, name)
