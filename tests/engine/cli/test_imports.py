"""What a start costs: counted in modules, so that it holds on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import engine

ENGINE = Path(engine.__file__).parent
MODULES = sorted(
    ".".join(("engine", *file.relative_to(ENGINE).with_suffix("").parts)).removesuffix(".__init__")
    for file in ENGINE.rglob("*.py")
)
SCREEN = {"textual", "rich", "tui"}
SERVERS = {"psycopg2", "paramiko", "cryptography", "asyncio"}
READERS = ("backups", "show", "servers", "status", "windows", "jobs", "job", "keep", "delete", "config", "wal", "cron")
"""Verbs that answer from the disk, or leave connections to others until they are needed."""


def loaded(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sys.modules, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_engine_never_loads_a_screen() -> None:
    assert len(MODULES) > 30
    names = [name for name in MODULES if name != "engine.__main__"]
    assert not SCREEN & {name.partition(".")[0] for name in loaded("\n".join(f"import {name}" for name in names))}


def test_version_loads_next_to_nothing() -> None:
    bare = loaded("")
    mine = loaded("from engine.cli.main import main; main(['--version'])") - bare
    assert len(mine) <= 8, mine


def test_help_loads_no_configuration() -> None:
    found = loaded("from engine.cli.main import main; main(['--help'])")
    assert not {"tomli", "dataclasses", "json", "engine.config"} & found


@pytest.mark.parametrize("verb", READERS)
def test_verbs_that_read_load_no_connection(verb: str) -> None:
    found = loaded(f"import engine.cli.{verb}, engine.config; engine.config.load")
    assert not (SERVERS | SCREEN) & {name.partition(".")[0] for name in found}
