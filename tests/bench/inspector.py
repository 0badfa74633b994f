"""The WAL inspector on a million segments in a real terminal: from key to paint, what is sent at rest, memory."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from engine.config import Server
from engine.postgres.lsn import Lsn
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo
from tests.bench import gaps
from tests.bench.measure import Result, at_most
from tests.support.terminal import Terminal

HOLES = 40
KEYS = {
    "a cell": ["\x1b[C", "\x1b[D"] * 10,
    "a row": ["\x1b[B", "\x1b[A"] * 10,
    "a page": ["\x1b[6~", "\x1b[5~"] * 10,
    "the next gap": ["n"] * 15,
    "zoom": ["-", "+"] * 8,
}
IDLE = 10.0


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    server = Server("main", str(root))
    repository.prepare(server.layout)
    gaps._segments(server.layout.wals, 1, 1, gaps.SEGMENTS)
    _backups(server)
    gaps._index(server.layout.index, server.layout.wals)
    for hole in range(1, HOLES + 1):
        number = hole * gaps.SEGMENTS // (HOLES + 1)
        for lacking in range(number, number + 3):
            name = f"00000001{lacking // gaps.PER_LOG:08X}{lacking % gaps.PER_LOG:08X}"
            Path(server.layout.wal(name)).unlink()
    config = root / "cellarman.toml"
    config.write_text(f'[cellarman]\nbarman_home = "{root}"\nstate_directory = "{root}/state"\n[servers.main]\n')
    argv = [sys.executable, "-m", "engine.cli.main", "--config", str(config)]
    with Terminal(argv, size=(160, 45)) as terminal:
        terminal.until("main", seconds=60)
        terminal.press("\r")
        terminal.press("3")
        terminal.until(f"gap 1 of {HOLES}", seconds=60)
        _settle(terminal)
        paints: list[float] = []
        for what, keys in KEYS.items():
            times = [_paint(terminal, key) for key in keys]
            paints += times
            yield at_most(f"inspector, key to paint, {what}, median", 1000 * statistics.median(times), 50, "ms")
        yield at_most("inspector, key to paint, all, 95 %", 1000 * statistics.quantiles(paints, n=20)[-1], 50, "ms")
        _settle(terminal)
        # The clock's minute may change once.
        idle = min(len(terminal.read(IDLE)), len(terminal.read(IDLE)))
        yield at_most("inspector, idle", idle / IDLE, 0, "bytes a second")
        yield at_most("inspector, memory", _memory(terminal.pid, "VmRSS"), 110, "MB")
        yield at_most("inspector, memory at its peak", _memory(terminal.pid, "VmHWM"), 110, "MB")
        terminal.press("qq")


def _backups(server: Server) -> None:
    for days in range(10):
        first = 1000 + days * (gaps.SEGMENTS // 11)
        ended = datetime.now(timezone.utc) - timedelta(days=10 - days)
        info = BackupInfo(
            ended.strftime(repository.ID_FORMAT), "main", "DONE", begin_time=ended, end_time=ended, systemid=gaps.SYSTEM
        )
        start, stop = Lsn(first * gaps.SIZE + 40), Lsn((first + 3) * gaps.SIZE + 99)
        repository.save(server.layout, info.began(start, 1).ended(stop, 1))


def _paint(terminal: Terminal, key: str) -> float:
    """Return the seconds from a key to the first bytes of what it paints."""
    _settle(terminal, 0.15)
    begin = time.perf_counter()
    terminal.press(key)
    terminal.first(5.0)
    return time.perf_counter() - begin


def _settle(terminal: Terminal, quiet: float = 1.0) -> None:
    """Read until it has been quiet for so long."""
    while terminal.read(quiet):
        pass


def _memory(pid: int, which: str) -> float:
    """Return the megabytes that a process has in memory: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {which}")
