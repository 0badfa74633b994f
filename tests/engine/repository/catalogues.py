"""Catalogues for these tests: Barman's own files, and small made ones whose every byte is known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_name
from engine.repository import repository, xlogdb
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout

ROOT = Path(__file__).resolve().parents[3]
BARMAN = ROOT / "tests/fixtures/barman/catalogue"
INFOS = sorted(BARMAN.glob("*/meta/*-backup.info"))
SIZE = 16 << 20
BEGIN = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


def barman(tmp_path: Path, server: str) -> Layout:
    """Return a home with Barman's own catalogue of `server`, without base files and WAL."""
    home = tmp_path / server
    shutil.copytree(BARMAN / server / "meta", home / "meta")
    layout = Layout(server, str(home))
    repository.prepare(layout)
    for name, place in (("identity.json", home), (f"{server}-xlog.db", home / "wals")):
        if (BARMAN / server / name).exists():
            shutil.copy(BARMAN / server / name, place)
    return layout


def empty(tmp_path: Path, name: str = "main") -> Layout:
    layout = Layout(name, str(tmp_path / "home" / name))
    repository.prepare(layout)
    return layout


def add(layout: Layout, day: int, segment: int, *, timeline: int = 1, span: int = 1, **changes: Any) -> BackupInfo:
    """Add a whole backup that began on `day` of November in `segment`, with three small files."""
    began = BEGIN + timedelta(days=day - 1)
    info = BackupInfo(
        id=f"202611{day:02d}T120000",
        server_name=layout.name,
        status="DONE",
        begin_time=began,
        end_time=began + timedelta(minutes=5),
        version=180000,
        systemid=7710929279087522286,
        size=30,
        deduplicated_size=30,
    )
    info = info.began(Lsn(segment * SIZE + 40), timeline).ended(Lsn((segment + span) * SIZE), timeline)
    info = replace(info, **changes)
    for place in ("data/base/1/1259", "data/global/pg_control", "16386/PG_18/1"):
        path = Path(layout.backup(info.id), place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    repository.save(layout, info)
    return info


def archive(layout: Layout, *names: str) -> None:
    """Lay WAL files into the archive, each with its index line."""
    for name in names:
        path = Path(layout.wal(name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        xlogdb.append(layout, [xlogdb.Line(name, len(name), 1795340806.25, "zstd")])


def segments(timeline: int, first: int, last: int) -> list[str]:
    return [segment_name(timeline, number, SIZE) for number in range(first, last + 1)]


def history(layout: Layout, timeline: int, parent: int, segment: int) -> None:
    """Archive the history file of a timeline that branched off in the middle of `segment`."""
    name = f"{timeline:08X}.history"
    archive(layout, name)
    Path(layout.wal(name)).write_text(f"{parent}\t{Lsn(segment * SIZE + SIZE // 2)}\tno recovery target specified\n")


def tree(layout: Layout) -> dict[str, bytes]:
    """Return everything below the server's home, by path."""
    found = {}
    for directory, _, names in os.walk(layout.home):
        found[os.path.relpath(directory, layout.home)] = b""
        for name in names:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, layout.home)] = Path(path).read_bytes()
    return found


def python(code: str, *args: str, **env: str) -> subprocess.Popen[str]:
    """Start another process of this Python that can import the engine."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
