"""Running Cellarman as an operator does: the installed programs, a configuration file, exit codes and output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster

BIN = Path(sys.executable).parent
LIMIT = 120.0
"""Seconds that one command may take before the test fails."""


@dataclass
class Outcome:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


@dataclass
class Cellarman:
    """The command line with one configuration file."""

    config: Path

    def run(self, *words: str, code: int | None = 0, env: dict[str, str] | None = None) -> Outcome:
        """Run a verb; fail unless it exits with `code` (None: whatever it exits with)."""
        return run(self.argv(*words), code=code, env=env)

    def json(self, *words: str, code: int | None = 0) -> Any:
        return self.run(*words, "--json", code=code).json

    def argv(self, *words: str) -> list[str]:
        return [str(BIN / "cellarman"), "--config", str(self.config), *words]

    def backup(self, server: str = "main", *words: str) -> str:
        """Take a backup, wait for it, and return its id."""
        self.run("backup", server, "--wait", *words)
        backups = self.json("backups", server)["backups"]
        assert backups[0]["status"] == "done", backups
        return str(backups[0]["id"])

    def wal(self, *words: str) -> list[str]:
        return [str(BIN / "cellarman-wal"), *words, "--config", str(self.config)]

    @contextmanager
    def spawned(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a verb that does not end by itself; terminate it afterwards."""
        log = self.config.with_name(f"{words[0]}.log")
        with log.open("ab") as output:
            process = subprocess.Popen(self.argv(*words), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(
    argv: list[str], *, code: int | None = 0, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Outcome:
    """Run a program without a terminal; fail unless it exits with `code` (None: whatever)."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
    )
    outcome = Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    assert code is None or outcome.code == code, f"{' '.join(argv)}\n{outcome.text}"
    return outcome


def configure(root: Path, cluster: Cluster, *, name: str = "main", **settings: Any) -> Cellarman:
    """Write a configuration for one server that streams its WAL into a repository in `root`."""
    values: dict[str, Any] = {
        "conninfo": cluster.conninfo,
        "streaming_conninfo": cluster.conninfo,
        "streaming_archiver": True,
        "slot_name": "cellarman",
        "immediate_checkpoint": True,
        "wal_timeout": 40,
        "path_prefix": str(cluster.install.bindir),
        **settings,
    }
    lines = ["[cellarman]", f'barman_home = "{root}/barman"', f'state_directory = "{root}/state"', f"[servers.{name}]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    root.mkdir(parents=True, exist_ok=True)
    config = root / "cellarman.toml"
    config.write_text("\n".join(lines) + "\n")
    return Cellarman(config)
