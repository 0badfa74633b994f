"""`cellarman servers`: one row a server, worst first."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import Any

from engine.cli import output
from engine.config import Config
from engine.status import ServerStatus, statuses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no argument of its own."""


def run(args: argparse.Namespace, config: Config) -> int:
    now = datetime.now(timezone.utc)
    found = statuses(config, now)
    if args.json:
        output.json_out({"servers": [facts(status, now, config.named) for status in found]})
    elif not found:
        print("no server is configured yet: add a table [servers.NAME], or look at: cellarman demo")
    else:
        headers = ("status", "server", "last backup", "recoverable to", "exposed", "gaps", "jobs")
        output.table([_row(status, now) for status in found], headers, right={5, 6})
    return 1 if any(status.health == "critical" for status in found) else 0


def facts(status: ServerStatus, now: datetime, config_file: str) -> dict[str, Any]:
    """Return one server for programs; `config_file` is named in the commands."""
    exposure = status.exposure(now)
    last = status.last_backup
    return {
        "name": status.name,
        "status": status.health,
        "last_backup": last.id if last else None,
        "last_backup_end": output.iso(last.end_time) if last else None,
        "recoverable_from": output.iso(status.recoverable_from),
        "recoverable_to": output.iso(status.recoverable_to),
        "exposure_seconds": int(exposure.total_seconds()) if exposure is not None else None,
        "gaps": status.gaps,
        "jobs": len(status.jobs),
        "findings": [
            {
                "severity": finding.severity,
                "what": finding.what,
                "why": finding.why,
                "fix": finding.fix.text(config_file),
            }
            for finding in status.findings
        ],
    }


def _row(status: ServerStatus, now: datetime) -> tuple[object, ...]:
    exposure = status.exposure(now)
    return (
        status.health,
        status.name,
        status.last_backup.id if status.last_backup else "none",
        output.when(status.recoverable_to),
        output.duration(exposure.total_seconds()) if exposure is not None else "-",
        status.gaps,
        len(status.jobs),
    )
