"""How long programs take to start."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Result, at_most, seconds
from tests.support.programs import BIN


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    config = root / "cellarman.toml"
    config.write_text(f'[cellarman]\nbarman_home = "{root}/barman"\n[servers.main]\nconninfo = "host=/nowhere"\n')
    (root / "barman" / "main" / "wals").mkdir(parents=True)
    bare = 1000 * statistics.median(_all([str(BIN / "python"), "-c", "pass"]))
    yield at_most("python -c pass, for comparison", bare, 20, "ms")
    version = [str(BIN / "cellarman"), "--version"]
    yield at_most("cellarman --version", 1000 * statistics.median(_all(version)), 60, "ms")
    # The first byte is the one-line reason that the segment is not there.
    get = [str(BIN / "cellarman-wal"), "get", "0000000100000000000000AA", str(root / "out"), "--server", "main"]
    times = [_first_byte([*get, "--config", str(config)]) for _ in range(21)]
    yield at_most("cellarman-wal, start to first byte", 1000 * statistics.median(times), 30, "ms")


def _all(argv: list[str]) -> list[float]:
    return [seconds(lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)) for _ in range(21)]


def _first_byte(argv: list[str]) -> float:
    begin = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        first = os.read(process.stderr.fileno(), 1)
        took = time.perf_counter() - begin
        process.stderr.read()
    assert first, "it said nothing"
    return took
