"""pg_backup_start … pg_backup_stop in one session, which is kept from the one to the other.

When the session ends before pg_backup_stop, for whatever reason, the server leaves backup mode by itself
(do_pg_abort_backup): nothing has to be cleaned up there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, CellarmanError
from engine.postgres import connection
from engine.postgres.facts import Tablespace, tablespaces
from engine.postgres.lsn import Lsn

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_RENAMED = 150000
"""The version that calls them pg_backup_start and pg_backup_stop."""
_HEARTBEAT = 5.0
"""Seconds between two looks at whether the session lives."""
_STOP_TIMEOUT = 300
_CHECKPOINT_SLACK = 600
"""Seconds beyond two spread checkpoints that the server gets for the one that the backup begins with."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What pg_backup_start answered."""

    lsn: Lsn
    asked: datetime
    """When it was asked, by the server's clock."""
    ready: datetime
    """When it had answered: what changes from now on is in the WAL."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What pg_backup_stop answered."""

    lsn: Lsn
    label: str
    tablespace_map: str
    at: datetime
    timeline: int


class Bracket:
    """The session of one backup; a context manager."""

    def __init__(self, server: Server, client: str) -> None:
        """`client` is what the session calls itself on the server."""
        self._server = server
        self._client = client
        self._stack = contextlib.ExitStack()
        self._next = 0.0
        self._stage = "before it began"

    def __enter__(self) -> Bracket:
        self._conn: Connection = self._stack.enter_context(
            connection.connect(
                self._server.conninfo,
                timeout=self._server.check_timeout,
                statement_timeout=_STOP_TIMEOUT,
                application_name=self._client,
            )
        )
        self._where = f"{self._conn.info.host}:{self._conn.info.port}"
        for name, value in self._settings().items():
            self._ask("SELECT set_config(%s, %s, false)", name, value)
        return self

    def _settings(self) -> dict[str, str]:
        """Return the session's settings: it may be idle for as long as the copy takes, and the server notices within
        a minute that this host is gone, where the kernel's own two hours would leave it in backup mode."""
        settings = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
        if self._conn.server_version >= 120000:
            settings["tcp_user_timeout"] = "40s"
        if self._conn.server_version >= 140000:
            settings["idle_session_timeout"] = "0"
        return settings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def start(self, label: str, *, fast: bool, waiting: Callable[[], None]) -> Begun:
        """Begin the backup; `waiting` is called now and then while the server makes its checkpoint."""
        minutes = self._ask("SELECT setting::int FROM pg_settings WHERE name = 'checkpoint_timeout'")[0]
        self._limit(2 * minutes + _CHECKPOINT_SLACK)
        self._stage = "while the server made its checkpoint"
        function = (
            "pg_backup_start(%s, %s)"
            if self._conn.server_version >= _RENAMED
            else "pg_start_backup(%s, %s, exclusive => false)"
        )
        lsn, asked = self._patiently(f"SELECT {function}::text, now()", (label, fast), waiting)
        self._limit(_STOP_TIMEOUT)
        self._stage = "during the copy"
        ready = self._ask("SELECT clock_timestamp()")[0]
        return Begun(Lsn.parse(lsn), asked.astimezone(timezone.utc), ready.astimezone(timezone.utc))

    def beat(self) -> None:
        """See, now and then, that the session lives; raises ConnectionFailed when the server has ended it."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _HEARTBEAT
            self._ask("SELECT 1")

    def stop(self) -> Stopped:
        """End the backup, without waiting for the server's archive_command; raises QueryFailed when what was copied is
        of no use, such as after the promotion of a standby."""
        # Of a standby, the end is the least point to recover to, whose timeline its control file knows.
        timeline = (
            "CASE WHEN pg_is_in_recovery() THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery())"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"
        )
        function = (
            "pg_backup_stop(wait_for_archive => false)"
            if self._conn.server_version >= _RENAMED
            else "pg_stop_backup(exclusive => false, wait_for_archive => false)"
        )
        lsn, label, spaces = self._ask(f"SELECT lsn::text, labelfile, spcmapfile FROM {function}")
        at, number = self._ask(f"SELECT clock_timestamp(), {timeline}")
        return Stopped(Lsn.parse(lsn), label, spaces or "", at.astimezone(timezone.utc), number)

    def tablespaces(self) -> tuple[Tablespace, ...]:
        """Return the tablespaces that there are now."""
        return tablespaces(self._conn)

    def included_files(self) -> tuple[str, ...]:
        """Return the configuration files that the main one includes, as far as settings come from them."""
        rows = self._rows(
            "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL AND sourcefile NOT IN"
            " (current_setting('config_file'), current_setting('data_directory') || '/postgresql.auto.conf') ORDER BY 1"
        )
        return tuple(str(row[0]) for row in rows)

    def _rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        import psycopg2

        try:
            with self._conn.cursor() as cursor:
                cursor.execute(query, arguments or None)
                return cursor.fetchall()
        except psycopg2.Error as error:
            if not self._conn.closed:
                raise
            raise self._lost(str(error)) from None

    def _lost(self, words: str) -> connection.ConnectionFailed:
        """Return the error for a session that is gone, and the backup with it."""
        server = self._server
        return connection.ConnectionFailed(
            f"the link to the database on {self._where} was lost {self._stage}, and the backup with it",
            f"{words.strip() or 'it did not answer'}\n"
            "a backup is one session from beginning to end: the server left backup mode by itself, or does within a"
            " minute, and what was copied is of no use (basebackup_retry_times is for rsync's link)",
            Advice(
                "see to the network between this host and that one, or in the server's log why it ended the session;"
                " then: ",
                cellarman("backup", server.name),
            ),
        )

    def _ask(self, query: str, *arguments: Any) -> tuple[Any, ...]:
        rows = self._rows(query, *arguments)
        if len(rows) != 1:
            raise CellarmanError("the server answered what it never does", f"{len(rows)} rows for: {query}")
        return rows[0]

    def _limit(self, seconds: int) -> None:
        self._ask("SELECT set_config('statement_timeout', %s, false)", f"{seconds}s")

    def _patiently(self, query: str, arguments: tuple[Any, ...], waiting: Callable[[], None]) -> tuple[Any, ...]:
        """Ask what may take minutes; whatever ends the waiting here ends the question there."""
        with ThreadPoolExecutor(1) as apart:
            answer = apart.submit(self._ask, query, *arguments)
            try:
                while True:
                    try:
                        return answer.result(0.25)
                    except NotYet:
                        if answer.done():
                            raise
                        waiting()
            except BaseException:
                if not answer.done():
                    self._conn.cancel()
                raise
