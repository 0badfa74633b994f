"""Work over a link that may be lost: told, tried again with pauses, and given up with the file at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from engine.errors import Cancelled, one_a_line
from engine.event import Reporter
from engine.host.problems import LINK, HostError

T = TypeVar("T")

_PAUSES = (2.0, 5.0, 15.0)
"""Seconds between tries after a lost link."""


class Link:
    """The link of one piece of work, or of several that follow each other."""

    def __init__(self, report: Reporter, stop: threading.Event | None = None) -> None:
        """`stop`, once set, ends the waiting between two tries."""
        self._report = report
        self._stop = stop or threading.Event()
        self._name = ""
        self._lost = 0.0

    def goes_on(self, name: str = "") -> None:
        """Hear that it gets on, with this file."""
        self._name = name or self._name
        if self._lost:
            at = f", at {self._name}" if self._name else ""
            self._report.note(f"resumed after {time.monotonic() - self._lost:.0f} s{at}")
            self._lost = 0.0

    def run(self, work: Callable[[], T]) -> T:
        """Do what can be done again from its begin; raises the last HostError, and Cancelled when it is stopped."""
        for pause in (*_PAUSES, None):
            try:
                return work()
            except HostError as error:
                if error.kind not in LINK:
                    raise
                at = f" at {self._name}" if self._name else ""
                if pause is None:
                    what = f"the restore to {error.host} stopped{at}: {error.what}"
                    fix = one_a_line([error.fix, "then run the same restore again"])
                    raise HostError(error.kind, error.host, what, error.why, fix) from error
                self._report.note(f"{error.what}{at}; trying again in {pause:g} s", "warn")
                self._lost = self._lost or time.monotonic()
                if self._stop.wait(pause):
                    raise Cancelled("the transfer was stopped") from error
        raise AssertionError("the last try returns or raises")
