"""`cellarman backups`: the catalogue of a server, newest first."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime, timezone
from typing import Any

from engine.amounts import counted
from engine.cli import output
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import UsageError
from engine.repository import repository, retention
from engine.repository.backupinfo import BackupInfo
from engine.repository.retention import Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    found = repository.catalogue(server.layout)
    verdicts = judge(server, found)
    if args.json:
        output.json_out(
            {
                "server": server.name,
                "backups": [facts(server, info, verdicts.get(info.id)) for info in found.backups if not info.deleting],
                "deleting": [info.id for info in found.backups if info.deleting],
                "unreadable": [broken._asdict() for broken in found.unreadable],
            }
        )
        return 0
    if found.backups:
        output.table(
            [_row(server, info, verdicts.get(info.id)) for info in found.backups],
            ("id", "name", "status", "method", "ended", "size", "tli", "keep", "retention"),
            right={5, 6},
        )
    else:
        take = cellarman("backup", server.name).line(config.named)
        print(f"server {server.name} has no backup; take one: {take}")
    for broken in found.unreadable:
        print(output.printable(f"{broken.id} cannot be read: {broken.reason}"), file=sys.stderr)
    return 0


def judge(server: Server, found: repository.Catalogue) -> dict[str, Verdict]:
    """Return what retention says about each backup; nothing when the policy's text is wrong (`check` says so)."""
    try:
        policy = retention.parse_policy(server.retention_policy)
    except UsageError:
        return {}
    return retention.verdicts(found.backups, policy, server.minimum_redundancy, datetime.now(timezone.utc))


def standing(server: Server, info: BackupInfo) -> str:
    """Return a backup's state in a word; `died` until maintenance has marked a dead worker's backup as failed, `gone`
    when its entry is there and its files are not."""
    if info.deleting:
        return "deleting"
    if info.usable and not os.path.isdir(server.layout.backup(info.id)):
        return "gone"
    return "died" if repository.abandoned(server.layout, info) else info.status.lower()


def facts(server: Server, info: BackupInfo, verdict: Verdict | None) -> dict[str, Any]:
    """Return a backup as programs read it; `bad_pages` is null where its pages were not looked at."""
    bad = repository.bad_pages(repository.facts(server.layout, info.id))
    return {
        "id": info.id,
        "name": info.backup_name,
        "status": standing(server, info),
        "method": info.method,
        "begin_time": output.iso(info.begin_time),
        "end_time": output.iso(info.end_time),
        "begin_lsn": _text(info.begin_xlog),
        "end_lsn": _text(info.end_xlog),
        "begin_wal": info.begin_wal,
        "end_wal": info.end_wal,
        "timeline": info.timeline,
        "size_bytes": info.size,
        "version": info.version,
        "keep": info.keep,
        "compression": info.compression,
        "parent": info.parent_backup_id,
        "retention": verdict.state if verdict else None,
        "error": info.error,
        "bad_pages": None if bad is None else len(bad),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _row(server: Server, info: BackupInfo, verdict: Verdict | None) -> tuple[object, ...]:
    bad = repository.bad_pages(repository.facts(server.layout, info.id))
    return (
        info.id,
        info.backup_name,
        standing(server, info) + (f", {counted(len(bad), 'bad page')}" if bad else ""),
        info.method + (f" {info.compression}" if info.compression else ""),
        output.when(info.end_time),
        output.size(info.size),
        info.timeline,
        info.keep,
        verdict.state.replace("_", " ") if verdict and verdict.state != "none" else None,
    )
