"""The command line that orders the same job: what forms show, and what the trail keeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from engine.job.spec import JobKind, JobSpec


def of(spec: JobSpec) -> str:
    """Return the command line of a job as it was ordered."""
    return command(spec.kind, spec.server, spec.arguments, config_file=spec.config_file)


def command(kind: JobKind, server: str, arguments: Mapping[str, Any], *, config_file: str = "") -> str:
    """Return the command line of a job with these arguments.

    >>> command("backup", "main", {"name": "before upgrade", "immediate": False})
    "cellarman backup main --name 'before upgrade' --spread-checkpoint"
    >>> command("delete", "main", {"backup": "20261122T135801"})
    'cellarman delete main 20261122T135801 --yes 20261122T135801'
    """
    if kind == "restore":
        from engine.recovery.plan import Order

        known = {"destination": "", "target": {"kind": "end"}, **arguments, "config_file": config_file}
        return Order.from_arguments(server, known).command()
    backup = str(arguments.get("backup", ""))
    words = ["cellarman", *(["--config", config_file] if config_file else []), kind, server]
    words += [backup] if backup else []
    if kind == "backup":
        words += ["--name", str(arguments["name"])] if arguments.get("name") else []
        words += ["--spread-checkpoint"] if arguments.get("immediate") is False else []
    if kind == "delete":
        words += ["--yes", backup]
    return shlex.join(words)


def subject(spec: JobSpec) -> str:
    """Return what a job is about, beside its server: a directory, a backup, a name."""
    keys = ("destination", "backup", "name")
    return next((str(spec.arguments[key]) for key in keys if spec.arguments.get(key)), "")
