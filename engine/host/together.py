"""Threads that do one work between them, and one that does something again and again beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from engine.errors import Cancelled

_LOOKS_EVERY = 0.1


class Together:
    """Some functions at once, each in a thread of its own; the first that fails stops the others."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the work is given up; what runs in the threads heeds it."""
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, works: Sequence[Callable[[], None]], look: Callable[[], None]) -> None:
        """Do all of `works`; `look` is called a few times a second, and at the end, in this thread.

        Raises what the first of them that failed, or `look`, raised, when all others have stopped.
        """
        threads = [threading.Thread(target=self._do, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(_LOOKS_EVERY)
                    look()
        except BaseException:
            self.stop.set()
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error
        look()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._lock:
                if self._error is None and not isinstance(error, Cancelled):
                    self._error = error
            self.stop.set()


@contextmanager
def meanwhile(seconds: float, work: Callable[[], bool], *, patience: float | None = None) -> Iterator[None]:
    """Call `work` every so many seconds in a thread while the block runs, until it returns False.

    At its end a call under way is waited for, at most `patience` seconds where that is given.
    """
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(seconds) and work():
            continue

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(patience)
