"""Work that is asked for faster than it can be done, such as a verdict at each key: the latest question wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Reckoner(Generic[Asked, Answered]):
    """One daemon thread that answers the newest question; those that were overtaken meanwhile are never begun.

    `answer` runs in the thread; `tell` is called there with the question and its answer, or the error.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Asked], Answered],
        tell: Callable[[Asked, Answered | Exception], object],
    ) -> None:
        self._answer, self._tell = answer, tell
        self._changed = threading.Condition()
        self._waiting: list[Asked] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def ask(self, question: Asked) -> None:
        """Ask; a question that waits still is forgotten."""
        with self._changed:
            self._waiting = [question]
            self._changed.notify()
        if not self._thread.is_alive() and not self._stopped:
            self._thread.start()

    def stop(self) -> None:
        """End the thread once what it does is done; nothing more is told."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._stopped)
                if self._stopped:
                    return
                question = self._waiting.pop()
            try:
                found: Answered | Exception = self._answer(question)
            except Exception as error:  # the thread's edge: the asker shows it
                found = error
            if not self._stopped:
                self._tell(question, found)
