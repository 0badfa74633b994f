"""One server's configuration, repository and jobs around a real PostgreSQL, as an operator would have them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import config as config_
from engine.config import Config, Server
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import receiver
from tests.support.cluster import Cluster
from tests.support.waiting import until


def processes(*words: str) -> list[int]:
    """Return the pids of the processes whose command line holds all these words."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if all(word in line for word in words):
                    found.append(int(name))
    return found


def gone(pid: int) -> bool:
    """Tell whether a process has ended (one that nobody has reaped yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@dataclass
class Site:
    """A directory with cellarman.toml, the repository and the state, for one cluster."""

    root: Path
    cluster: Cluster
    path: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def config(self) -> Config:
        return config_.load(str(self.path))

    @property
    def server(self) -> Server:
        return self.config.server("main")

    @property
    def repo(self) -> Path:
        return self.root / "repo" / "main"

    def configure(self, *, more: str = "", **settings: str | int | bool) -> None:
        """Write the configuration: the defaults of these tests, `settings` over them, and `more` behind them."""
        values: dict[str, str | int | bool] = {
            "conninfo": self.cluster.conninfo,
            "streaming_archiver": True,
            "slot_name": "cellarman",
            "immediate_checkpoint": True,
            "path_prefix": str(self.cluster.install.bindir),
            "wal_timeout": 30,
            "lock_timeout": 5,
            "check_timeout": 10,
            **settings,
        }
        lines = ["[cellarman]", f'barman_home = "{self.root}/repo"', f'state_directory = "{self.root}/state"']
        lines += ["[servers.main]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.path.write_text("\n".join([*lines, more]) + "\n")

    def start(self, *words: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start `cellarman` with these words."""
        environment = {**os.environ, "CELLARMAN_CONFIG": str(self.path), **kwargs.pop("env", {})}
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kwargs}
        process = subprocess.Popen([sys.executable, "-m", "engine.cli.main", *words], env=environment, **options)
        self.started.append(process)
        return process

    def run(self, *words: str, timeout: float = 60, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run `cellarman` with these words to its end."""
        with self.start(*words, **kwargs) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"cellarman {words} did not end\n{out}\n{err}") from None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def jobs(self) -> list[dict[str, Any]]:
        """Return what `cellarman jobs --json` says."""
        return list(self.json("jobs")["jobs"])

    def backups(self) -> list[BackupInfo]:
        return repository.backups(self.server.layout)

    def text_of_all_jobs(self) -> str:
        """Return all that the jobs wrote, for looking for what must not be in it."""
        found = []
        for path in sorted((self.root / "state").rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # a temporary one
                found.append(path.read_text(errors="replace") if path.is_file() else "")
        return "".join(found)

    def close(self) -> None:
        """Stop what this site started."""
        holder = receiver.alive(self.server.layout) if self.path.exists() else None
        if holder is not None and holder.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGTERM)
            until(lambda: gone(holder.pid), "the receiver ends")
        for pid in processes("engine.job.worker", str(self.root)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:  # still running where a test failed
            with process:
                process.kill()


@contextlib.contextmanager
def site(cluster: Cluster, *, more: str = "", **settings: str | int | bool) -> Iterator[Site]:
    """Make a site in a new temporary directory, and remove it and what it started afterwards."""
    root = Path(tempfile.mkdtemp(prefix="cm-site-"))
    made = Site(root, cluster, root / "cellarman.toml")
    made.configure(more=more, **settings)
    try:
        yield made
    finally:
        made.close()
        drop_slots(cluster)
        shutil.rmtree(root, ignore_errors=True)


def drop_slots(cluster: Cluster) -> None:
    """Drop the slots that nobody uses, when the server runs."""
    import psycopg2

    with contextlib.suppress(psycopg2.Error):
        cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL")
        until(lambda: not cluster.value("SELECT count(*) FROM pg_replication_slots WHERE active"), "slots are free")
        cluster.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
