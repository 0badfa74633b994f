"""What a job is to do, as a frozen value, and where a job keeps its files.

A job's directory is `<state_directory>/jobs/<id>/`: `spec.json` (never changed), `events.jsonl` (append-only, the
truth), `state.json` (derived, replaced atomically), `lock` (flock held for the worker's life; pid and start time
inside) and `output` (the worker's standard output and error).
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, cast, get_args

from engine.config import Config, places
from engine.errors import CellarmanError

JobKind = Literal["backup", "restore", "verify", "delete", "fetch", "aftermath"]

PHASES: Mapping[str, tuple[str, ...]] = {
    "backup": ("checkpoint", "copy", "sync", "wal"),
    "verify": ("files", "wal"),
    "fetch": ("look", "fetch", "index"),
    "aftermath": ("server", "backup", "marker", "lanes", "archive", "plan", "restore", "start", "read back"),
}
"""The phases that a kind of job goes through, in order, where they are always the same."""

SPEC = "spec.json"
EVENTS = "events.jsonl"
STATE = "state.json"
LOCK = "lock"
OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job, as ordered."""

    id: str
    kind: JobKind
    server: str
    config_file: str
    """The one configuration file, absolute; empty for the usual places."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready; what the kind of work takes."""
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    user: str = ""

    @property
    def named(self) -> str:
        """The file to name in command lines of ours, as `Config.named`."""
        return places.named([self.config_file], os.environ)


def make(config: Config, kind: JobKind, server: str, **arguments: Any) -> JobSpec:
    """Return the spec of a new job on a server of `config`; arguments must be JSON-ready."""
    now = datetime.now(timezone.utc)
    return JobSpec(
        id=f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(2)}",
        kind=kind,
        server=server,
        config_file=config.alone,
        arguments=arguments,
        created=now,
        user=_user(),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())


def directory(state_directory: str) -> str:
    """Return where all jobs are."""
    return os.path.join(state_directory, "jobs")


def write(path: str, spec: JobSpec) -> None:
    """Write the spec as JSON to a new file, durably, for the group to read."""
    document = {
        "id": spec.id,
        "kind": spec.kind,
        "server": spec.server,
        "config_file": spec.config_file,
        "arguments": dict(spec.arguments),
        "created": spec.created.isoformat(),
        "user": spec.user,
    }
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(fd)


def read(job_directory: str) -> JobSpec:
    """Return the spec of the job in this directory; raises CellarmanError when it cannot be read."""
    path = os.path.join(job_directory, SPEC)
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        kind = document["kind"]
        if kind not in get_args(JobKind):
            raise ValueError(f"no such kind of job: {kind!r}")
        return JobSpec(
            id=str(document["id"]),
            kind=cast(JobKind, kind),
            server=str(document["server"]),
            config_file=str(document["config_file"]),
            arguments=dict(document["arguments"]),
            created=datetime.fromisoformat(document["created"]),
            user=str(document["user"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CellarmanError(f"the job in {job_directory} cannot be read", f"{path}: {error!r}") from error
