"""The command line that orders the same job: what forms show, and what the trail keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.commands import Command, cellarman
from engine.job.spec import JobKind, JobSpec


def of(spec: JobSpec) -> str:
    """Return the command line of a job as it was ordered."""
    return command(spec.kind, spec.server, spec.arguments).line(spec.named)


def command(kind: JobKind, server: str, arguments: Mapping[str, Any]) -> Command:
    """Return the command that orders a job with these arguments.

    >>> command("backup", "main", {"name": "before upgrade", "immediate": False}).line()
    "cellarman backup main --name 'before upgrade' --spread-checkpoint"
    >>> command("aftermath", "main", {"take_backup": False, "sandbox": "/srv"}).line()
    'cellarman aftermath main --no-backup --sandbox /srv'
    >>> command("delete", "main", {"backup": "20261122T135801"}).line()
    'cellarman delete main 20261122T135801 --yes 20261122T135801'
    """
    if kind == "restore":
        from engine.recovery.plan import Order

        known = {"destination": "", "target": {"kind": "end"}, **arguments}
        return Order.from_arguments(server, known).command()
    backup = str(arguments.get("backup", ""))
    verb = {"fetch": ["wal", "fetch-missing"]}.get(kind, [kind])
    words = [*verb, server]
    words += [backup] if backup else []
    if kind == "backup":
        words += ["--name", str(arguments["name"])] if arguments.get("name") else []
        words += ["--spread-checkpoint"] if arguments.get("immediate") is False else []
    if kind == "delete":
        words += ["--yes", backup]
    if kind == "aftermath":
        words += _aftermath(arguments)
    return cellarman(*words)


def _aftermath(arguments: Mapping[str, Any]) -> list[str]:
    take, sandbox, patience = (arguments.get(key) for key in ("take_backup", "sandbox", "patience"))
    words = [] if take is None else ["--backup" if take else "--no-backup"]
    words += ["--sandbox", str(sandbox)] if sandbox else []
    return words + (["--patience", f"{patience:g}"] if patience else [])


def subject(spec: JobSpec) -> str:
    """Return what a job is about, beside its server: a directory, a backup, a name."""
    keys = ("destination", "backup", "name")
    return next((str(spec.arguments[key]) for key in keys if spec.arguments.get(key)), "")
