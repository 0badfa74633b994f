"""`cellarman delete`: delete a backup and the WAL that only it needs."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engine.actions import Actions
from engine.cli import output
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, NotFound, Refused
from engine.repository import deletion, repository
from engine.repository.backupinfo import BackupInfoError
from engine.repository.deletion import Deletion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("backup", metavar="BACKUP", help="an id, a name, latest or oldest")
    parser.add_argument("--dry-run", action="store_true", help="say what would go and what forbids it; touch nothing")
    parser.add_argument("--yes", metavar="ID", help="the backup's id, typed: delete without asking")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    if args.dry_run:
        return _delete(args, server)
    actions = Actions(config, say=output.warn)
    words = ("delete", server.name, args.backup, *(["--yes", args.yes] if args.yes else []))
    with actions.acting("delete", server, args.backup, *words):
        actions.require("delete", server)
        return _delete(args, server)


def _delete(args: argparse.Namespace, server: Server) -> int:
    backup_id = _id(server, args.backup)
    plan = deletion.plan_deletion(server.layout, backup_id, minimum_redundancy=server.minimum_redundancy)
    if args.json and (args.dry_run or plan.refusals):
        output.json_out(document(server, plan, deleted=False))
    elif not args.json:
        print("\n".join(lines(plan)))
    if plan.refusals:
        raise deletion.refused(server.layout, backup_id, list(plan.refusals))
    if args.dry_run:
        return 0
    _confirm(server, backup_id, args.yes)
    try:
        done = deletion.delete(
            server.layout, backup_id, minimum_redundancy=server.minimum_redundancy, wait=server.lock_timeout
        )
    except KeyboardInterrupt:
        cron = cellarman("cron").line(server.named)
        print(f"what was begun is finished by the same command, or by: {cron}", file=sys.stderr)
        raise
    if args.json:
        output.json_out(document(server, done, deleted=True))
    else:
        print(f"backup {backup_id} is deleted; {output.size(done.freed_bytes)} freed")
    return 0


def _id(server: Server, ref: str) -> str:
    """Return the id that `ref` means; that of a broken or half-deleted entry has to be given exactly."""
    try:
        return repository.find(server.layout, ref).id
    except (NotFound, BackupInfoError):
        if ref in deletion.unfinished(server.layout) or any(
            broken.id == ref for broken in repository.catalogue(server.layout).unreadable
        ):
            return ref
        raise


def _confirm(server: Server, backup_id: str, yes: str | None) -> None:
    """Raise Refused unless the id was typed, with --yes or now."""
    if yes is None and sys.stdin is not None and sys.stdin.isatty():
        print("This cannot be undone. Type the backup's id to delete it: ", end="", file=sys.stderr, flush=True)
        yes = sys.stdin.readline().strip()
    if yes != backup_id:
        raise Refused(
            f"backup {backup_id} of server {server.name} is not deleted",
            f"{yes!r} is not its id" if yes else "it was not confirmed with its id",
            Advice(cellarman("delete", server.name, backup_id, "--yes", backup_id)),
        )


def document(server: Server, plan: Deletion, *, deleted: bool) -> dict[str, Any]:
    """Return a deletion as programs read it."""
    return {
        "server": server.name,
        "backup": plan.id,
        "deleted": deleted,
        "resumed": plan.resumed,
        "files": plan.files,
        "size_bytes": plan.bytes,
        "wal": {
            "first": plan.wal[0] if plan.wal else None,
            "last": plan.wal[-1] if plan.wal else None,
            "count": len(plan.wal),
            "size_bytes": plan.wal_bytes,
        },
        "freed_bytes": plan.freed_bytes,
        "notes": list(plan.notes),
        "refusals": [refusal._asdict() for refusal in plan.refusals],
    }


def lines(plan: Deletion) -> list[str]:
    """Return a deletion as people read it."""
    info = plan.info
    about = f"{info.status.lower()}, {info.method}, ended {output.when(info.end_time)}" if info else "cannot be read"
    name = f" ({info.backup_name})" if info and info.backup_name else ""
    rows = [
        (f"backup {plan.id}{name}", about),
        ("files", f"{plan.files}, {output.size(plan.bytes)}"),
        ("WAL", _wal(plan)),
        ("frees", output.size(plan.freed_bytes)),
    ]
    if plan.resumed:
        rows.insert(1, ("state", "an earlier deletion was interrupted; it would be finished"))
    return [*output.table_lines(rows), *(f"note: {note}" for note in plan.notes)]


def _wal(plan: Deletion) -> str:
    if not plan.wal:
        return "none: what it needs, others need too, or nothing can be said to be free"
    span = plan.wal[0] if len(plan.wal) == 1 else f"{plan.wal[0]} to {plan.wal[-1]}"
    return f"{len(plan.wal)} files, {span}, {output.size(plan.wal_bytes)}"
