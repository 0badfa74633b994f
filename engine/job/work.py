"""Which function does which kind of job: `work(server, report, job=…, **arguments) -> dict` of the kind's module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from engine.config import Server
from engine.event import Reporter
from engine.job.spec import JobKind, JobSpec


class Work(Protocol):
    """Does one kind of job; `arguments` are the spec's. Returns JSON-ready facts of what came out."""

    def __call__(self, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]: ...


_MODULES: Mapping[JobKind, str] = {
    "backup": "engine.backup.streaming",
    "verify": "engine.backup.verify",
    "restore": "engine.recovery.restore",
    "delete": "engine.job.deletion",
}


def run(spec: JobSpec, server: Server, report: Reporter) -> dict[str, Any]:
    """Do the work and return JSON-ready facts of what came out; raises CellarmanError when it failed.

    The room of a kind is imported only when it is needed, since a worker's memory is counted.
    """
    work = cast(Work, importlib.import_module(_MODULES[spec.kind]).work)
    return work(server, report, job=spec.id, **spec.arguments)
