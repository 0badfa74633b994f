"""Which function does which kind of job: `work(config, server, report, job=…, **arguments)` of the kind's module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from engine.config import Config, Server
from engine.config.values import BackupMethod
from engine.event import Reporter
from engine.job.spec import JobKind, JobSpec


class Work(Protocol):
    """Does one kind of job; `arguments` are the spec's. Returns JSON-ready facts of what came out."""

    def __call__(
        self, config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any
    ) -> dict[str, Any]: ...


_MODULES: Mapping[JobKind, str] = {
    "backup": "engine.backup.streaming",
    "verify": "engine.backup.verify",
    "restore": "engine.recovery.restore",
    "delete": "engine.job.deletion",
    "fetch": "engine.job.fetching",
    "aftermath": "engine.aftermath.loop",
}
_OTHER_METHODS: Mapping[BackupMethod, str] = {"rsync": "engine.backup.rsync", "local-rsync": "engine.backup.rsync"}
"""Where a server's backup_method is not pg_basebackup's."""


def _module(kind: JobKind, server: Server) -> str:
    if kind == "backup":
        return _OTHER_METHODS.get(server.backup_method, _MODULES[kind])
    return _MODULES[kind]


def run(spec: JobSpec, config: Config, report: Reporter) -> dict[str, Any]:
    """Do the work and return JSON-ready facts of what came out; raises CellarmanError when it failed.

    The room of a kind is imported only when it is needed, since a worker's memory is counted.
    """
    server = config.server(spec.server)
    work = cast(Work, importlib.import_module(_module(spec.kind, server)).work)
    return work(config, server, report, job=spec.id, **spec.arguments)
