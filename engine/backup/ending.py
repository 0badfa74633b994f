"""How a backup ends: DONE, or FAILED with the reason, off the server and without what was copied."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection
from dataclasses import replace

from engine.config import Server
from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import connection
from engine.repository import repository
from engine.repository.backupinfo import BackupInfo

_INSUFFICIENT_PRIVILEGE = "42501"
_RELEASE_PATIENCE = 5.0
"""Seconds that the server gets to end a backup that was given up."""


def reason(error: BaseException) -> str:
    """Return an error as the one line that backup.info takes.

    >>> reason(CellarmanError("the link was lost", "timed out\\n  what was copied is of no use"))
    'the link was lost: timed out; what was copied is of no use'
    """
    text = str(error) or type(error).__name__
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())[:1000]


def give_up(server: Server, info: BackupInfo, why: str, client: str, report: Reporter) -> None:
    """Leave a backup FAILED: ended on the server, its files removed, the reason in backup.info.

    The caller holds the server's backup lock. `client` is what its pg_basebackup called itself, "" for not known.
    """
    if client:
        release(server, client, report)
    discard(server, info.id)
    repository.save(server.layout, replace(info, status="FAILED", error=why))


def complete(server: Server, info: BackupInfo) -> None:
    """Make a backup DONE whose WAL is all in the archive; the caller holds its lock."""
    repository.save(server.layout, replace(info, status="DONE"))


def discard(server: Server, backup_id: str) -> None:
    """Remove what a failed backup copied, so that it takes no room; its place stays, empty, for Barman to delete."""
    shutil.rmtree(server.layout.backup(backup_id), ignore_errors=True)
    try:
        os.makedirs(server.layout.data(backup_id), mode=0o755, exist_ok=True)
    except OSError:
        return  # a repository that became read-only: what is left is named FAILED all the same


def release_leftovers(server: Server, clients: Collection[str]) -> dict[str, int]:
    """End the sessions on the server that are called so and came from this host; returns how many of each were ended.

    `clients` are those of backups that are over. Raises CellarmanError when the server does not answer or lets us not.
    """
    with connection.connect(server.conninfo, timeout=5, statement_timeout=5) as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT application_name, count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = ANY (%s) AND client_addr IS NOT DISTINCT FROM"
            " (SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()) GROUP BY 1",
            (list(clients),),
        )
        return dict(cursor.fetchall())


def release(server: Server, client: str, report: Reporter) -> None:
    """End the backup on the server, which would notice only later that nobody listens."""
    deadline = time.monotonic() + _RELEASE_PATIENCE
    try:
        with connection.connect(server.conninfo, timeout=5, statement_timeout=5) as conn, conn.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s",
                    (client,),
                )
                if cursor.fetchone() == (0,):
                    return
                time.sleep(0.05)
    except CellarmanError as error:
        forbidden = isinstance(error, connection.QueryFailed) and error.sqlstate == _INSUFFICIENT_PRIVILEGE
        why = "" if forbidden else f": {error}"
        report.note(f"the server ends its side of the backup by itself, within a minute of losing this host{why}")
