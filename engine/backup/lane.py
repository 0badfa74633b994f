"""The lane by which WAL streams here must flow before a backup begins: what came before it would be lost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, Refused
from engine.event import Reporter
from engine.postgres import connection
from engine.wal import receiver

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_PATIENCE = 20.0
"""Seconds that pg_receivewal gets to connect."""


def open_lane(server: Server, report: Reporter) -> None:
    """See that pg_receivewal runs and receives, starting it if need be; raises Refused, with its words, when not.

    Does nothing for a server whose WAL arrives by archive_command alone.
    """
    if not server.streaming_archiver:
        return
    if receiver.ensure(server, renew=True):
        report.note("pg_receivewal was started")
    deadline = time.monotonic() + _PATIENCE
    with connection.connect(server.conninfo, timeout=server.check_timeout) as conn:
        write_a_little(conn)
        while not _flows(server, conn):
            if time.monotonic() >= deadline:
                raise Refused(
                    f"the WAL of {server.name} does not stream here, and a backup without its WAL cannot be restored",
                    receiver.last_words(server.layout) or f"pg_receivewal received nothing for {_PATIENCE:g} s",
                    Advice(cellarman("check", server.name), "  # says what lets it stream"),
                )
            time.sleep(0.05)


def _flows(server: Server, conn: Connection) -> bool:
    if server.slot_name:
        slot = connection.slot(conn, server.slot_name)
        return slot is not None and slot.active and slot.restart_lsn is not None
    return any(name.endswith(".partial") for name in os.listdir(server.layout.streaming))


def write_a_little(conn: Connection) -> None:
    """Have the server write WAL: pg_receivewal leaves a finished segment only when the next one has begun, and an idle
    server would write nothing. A standby writes none."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT CASE WHEN NOT pg_is_in_recovery() THEN txid_current() END")
