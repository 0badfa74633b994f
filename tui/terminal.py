"""A console whose terminal is gone or stalled still ends: what it would write waits for ever, and it with that."""

from __future__ import annotations

import os
import select
import signal
import threading

PATIENCE = 5.0
"""Seconds that leaving may take, once something ended the console from outside."""
_WRITER = "textual-output"
"""The name of Textual's thread that writes to the terminal."""


class Departure:
    """Ends the process by force when its orderly end, begun by a signal or a dead terminal, takes too long."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._over = False

    def begin(self, number: int) -> None:
        """Allow some seconds from now on; a second call changes nothing."""
        if self._timer is None:
            self._timer = threading.Timer(PATIENCE, os._exit, (128 + number,))
            self._timer.daemon = True
            self._timer.start()

    def done(self) -> None:
        """The screen is given back: what follows may take its time."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def watch_output(self) -> None:
        """Take a write that the terminal refuses for its end: without the thread that wrote, the next one waits."""
        otherwise = threading.excepthook

        def broke(args: threading.ExceptHookArgs) -> None:
            if args.thread is None or args.thread.name != _WRITER:
                otherwise(args)
                return
            self.begin(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)

        threading.excepthook = broke

    def watch_terminal(self) -> None:
        """Notice that the terminal is hung up: the signal for that goes to the session's first process alone, which
        may be one that keeps it to itself, as make does."""
        threading.Thread(target=self._hung_up, name="terminal", daemon=True).start()

    def _hung_up(self) -> None:
        waiting = select.poll()
        waiting.register(0, 0)  # a hang-up is told unasked
        waiting.poll()
        if not self._over:
            self.begin(signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
