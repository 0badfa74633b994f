"""Deleting a backup as a job."""

from __future__ import annotations

from typing import Any

from engine.config import Config, Server
from engine.event import Reporter
from engine.repository import deletion


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Delete a backup as a job; argument `backup`: its id."""
    gone = deletion.delete(
        server.layout,
        str(arguments["backup"]),
        minimum_redundancy=server.minimum_redundancy,
        wait=server.lock_timeout,
        report=report,
    )
    return {
        "backup": gone.id,
        "freed_bytes": gone.freed_bytes,
        "wal": len(gone.wal),
        "summary": f"backup {gone.id} of {server.name} is deleted: {gone.freed_bytes / 2**20:,.1f} MiB freed",
    }
