"""How far the server is with sending a backup, asked seldom: it counts what it reads, before any compression."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from engine.config import Server
from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import connection
from engine.postgres.connection import BasebackupProgress

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

INTERVAL = 1.0
RETRY = 30.0
"""Seconds after which a server that did not answer is asked again."""
ARCHIVING = "waiting for wal archiving to finish"
"""The server's phase in which it waits for its own archive_command (basebackup.c)."""


class Monitor:
    """Keeps one connection and asks pg_stat_progress_basebackup; what it cannot learn it says once."""

    def __init__(self, server: Server, application_name: str, report: Reporter) -> None:
        self._server = server
        self._name = application_name
        self._report = report
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._next = 0.0
        self._told = False
        self.last: BasebackupProgress | None = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def look(self) -> BasebackupProgress | None:
        """Return the latest that is known, asking again when a second has passed."""
        now = time.monotonic()
        if now < self._next:
            return self.last
        self._next = now + INTERVAL
        try:
            if self._connection is None:
                self._connection = self._stack.enter_context(
                    connection.connect(self._server.conninfo, timeout=5, statement_timeout=5)
                )
            self.last = connection.basebackup_progress(self._connection, self._name) or self.last
        except CellarmanError as error:
            self._stack.close()
            self._connection = None
            self._next = now + RETRY
            if not self._told:
                self._told = True
                self._report.note(f"the server's own progress cannot be read: {error}", "warn")
        return self.last
