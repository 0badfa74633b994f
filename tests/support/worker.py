"""A job's journal, written by this process as a worker writes it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from engine.config import Config
from engine.job import spec as spec_
from engine.job.journal import JournalReporter


class Worker:
    """What a job's worker does with its directory, in this process."""

    def __init__(self, config: Config, server: str) -> None:
        self.spec = spec_.make(config, "backup", server)
        self.place = Path(spec_.directory(config.state_directory)) / self.spec.id
        self.place.mkdir(parents=True)
        spec_.write(str(self.place / spec_.SPEC), self.spec)
        self.lock = os.open(self.place / spec_.LOCK, os.O_RDWR | os.O_CREAT, 0o640)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.report = JournalReporter(str(self.place), self.spec)
        self.report.__enter__()

    def end(self, error: Exception | None = None) -> None:
        self.report.__exit__(type(error) if error else None, error, None)
        os.close(self.lock)

    def die(self) -> None:
        os.close(self.lock)
