"""The gap report on a million segments of three timelines: cold, and with what it keeps."""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from engine.config import Server
from engine.postgres.lsn import Lsn
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from engine.wal import indexschema
from tests.bench.measure import Result, at_most

SEGMENTS = 1_000_000
SIZE = 16 << 20
PER_LOG = 256
SYSTEM = 77
_REPORT = """
import resource, sys, time
from engine.config import Server
from engine.wal.findings import report
begin = time.perf_counter()
found = report(Server("main", sys.argv[1]), ask_server=False)
took = time.perf_counter() - begin
assert found.status == "ok", found
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    server = Server("main", str(root))
    layout = server.layout
    repository.prepare(layout)
    thirds = (1, SEGMENTS // 3, 2 * SEGMENTS // 3, SEGMENTS)
    for timeline in (1, 2, 3):
        _segments(layout.wals, timeline, thirds[timeline - 1], thirds[timeline])
        if timeline > 1:
            forks = [f"{t}\t{Lsn(thirds[t] * SIZE + 40)}\tx\n" for t in range(1, timeline)]
            Path(layout.wals, f"{timeline:08X}.history").write_text("".join(forks))
    for days in range(10):
        first = 1000 + days * (SEGMENTS // 11)
        timeline = sum(1 for third in thirds[:3] if first >= third)
        ended = datetime.now(timezone.utc) - timedelta(days=10 - days)
        info = BackupInfo(
            ended.strftime(repository.ID_FORMAT), "main", "DONE", begin_time=ended, end_time=ended, systemid=SYSTEM
        )
        repository.save(
            layout, info.began(Lsn(first * SIZE + 40), timeline).ended(Lsn((first + 3) * SIZE + 99), timeline)
        )
    cold = [_measured(root, layout.own) for _ in range(repeat)]
    yield at_most(f"gap report, {SEGMENTS:,} segments, cold", statistics.median(t for t, _ in cold), 1.0, "s")
    shutil.rmtree(layout.own, ignore_errors=True)
    _index(layout.index, layout.wals)
    _measured(root, "")
    warm = [_measured(root, "") for _ in range(repeat)]
    yield at_most(f"gap report, {SEGMENTS:,} segments, indexed", statistics.median(t for t, _ in warm), 0.15, "s")
    yield at_most("its memory", max(m for _, m in (*cold, *warm)), 150, "MB")


def _measured(root: Path, forget: str) -> tuple[float, float]:
    """Return the seconds and megabytes of one report in a process of its own."""
    if forget:
        shutil.rmtree(forget, ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", _REPORT, str(root)], check=True, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def _segments(wals: str, timeline: int, first: int, last: int) -> None:
    for log in range(first // PER_LOG, last // PER_LOG + 1):
        directory = f"{wals}/{timeline:08X}{log:08X}"
        os.makedirs(directory, exist_ok=True)
        for number in range(max(first, log * PER_LOG), min(last, log * PER_LOG + PER_LOG - 1) + 1):
            os.close(os.open(f"{directory}/{timeline:08X}{log:08X}{number % PER_LOG:08X}", os.O_CREAT | os.O_WRONLY))
        os.utime(directory, (1_700_000_000, 1_700_000_000))


def _index(path: str, wals: str) -> None:
    """Write the index that reading real segments would have made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    columns = (*indexschema.COLUMNS, *indexschema.CARRY)
    insert = f"INSERT INTO segment VALUES ({', '.join('?' * len(columns))})"
    database = sqlite3.connect(path)
    database.executescript(indexschema.SCHEMA)
    for directory in sorted(name for name in os.listdir(wals) if len(name) == 16 and "." not in name):
        for name in os.listdir(f"{wals}/{directory}"):
            facts = os.stat(f"{wals}/{directory}/{name}")
            number = int(name[8:16], 16) * PER_LOG + int(name[16:], 16)
            row = {
                "timeline": int(name[:8], 16),
                "number": number,
                "name": name,
                "size": facts.st_size,
                "mtime_ns": facts.st_mtime_ns,
                "system_id": str(SYSTEM),
                "segment_size": SIZE,
                "first_timeline": int(name[:8], 16),
                "rem_len": 0,
                "joined": 1,
                "end_lsn": (number + 1) * SIZE,
                "ended_by": "end",
                "max_commit": number * 1_000_000,
            }
            database.execute(insert, [row.get(column) for column in columns])
        changed = os.stat(f"{wals}/{directory}").st_mtime_ns
        database.execute("INSERT INTO directory VALUES (?, ?)", (directory, changed))
    database.commit()
    database.close()
