"""A backup taken with pg_basebackup, from preflight to DONE."""

from __future__ import annotations

from typing import Any

from engine.config import Server
from engine.event import SILENT, Reporter
from engine.repository.backupinfo import BackupInfo


def take(
    server: Server,
    *,
    backup_id: str | None = None,
    name: str | None = None,
    immediate: bool | None = None,
    report: Reporter = SILENT,
    job: str = "",
) -> BackupInfo:
    """Take a backup and return it, DONE: every WAL segment that it needs is in the archive.

    `immediate` of None means the server's immediate_checkpoint. Raises Refused before anything is made when it cannot
    work; after that the backup is left FAILED with the reason, or WAITING_FOR_WALS when only WAL is missing.
    """
    raise NotImplementedError


def work(server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Take a backup as a job; `arguments` are those of `take`."""
    raise NotImplementedError
