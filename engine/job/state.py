"""What is known of a job, folded from its events one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, cast

from engine import event as ev
from engine.job.spec import JobSpec

JobStatus = Literal["running", "done", "failed", "cancelled", "died"]
LOG_TAIL = 20


@dataclass(frozen=True, slots=True)
class JobState:
    """One job, as its journal tells it; `died` means that its lock is free and its journal has no end."""

    id: str
    kind: str
    server: str
    status: JobStatus
    created: datetime
    user: str = ""
    pid: int | None = None
    started: datetime | None = None
    ended: datetime | None = None
    """For a job that died: when it was last heard of."""
    phase: str = ""
    phases_seen: tuple[str, ...] = ()
    backup: str = ""
    reason: str = ""
    fix: str = ""
    progress: ev.Progress | None = None
    log: tuple[ev.Note, ...] = ()
    """The last notes."""
    result: Mapping[str, Any] = field(default_factory=dict)
    directory: str = ""


def initial(spec: JobSpec, directory: str) -> JobState:
    """Return the state of a job of which nothing was heard yet."""
    return JobState(spec.id, spec.kind, spec.server, "running", spec.created, spec.user, directory=directory)


def fold(state: JobState, event: ev.Event) -> JobState:
    """Return what is known after one more event."""
    if isinstance(event, ev.Started):
        return replace(state, status="running", pid=event.pid, started=event.at)
    if isinstance(event, ev.BackupNamed):
        return replace(state, backup=event.backup)
    if isinstance(event, ev.Phase):
        return replace(state, phase=event.phase, phases_seen=(*state.phases_seen, event.phase), progress=None)
    if isinstance(event, ev.Progress):
        return replace(state, progress=event)
    if isinstance(event, ev.Note):
        return replace(state, log=(*state.log, event)[-LOG_TAIL:])
    return replace(state, status=event.status, ended=event.at, reason=event.reason, fix=event.fix, result=event.result)


def to_json(state: JobState) -> dict[str, Any]:
    """Return the state as a JSON-ready dict, times in ISO 8601; the first ten keys are what `jobs --json` promises."""
    return {
        "id": state.id,
        "kind": state.kind,
        "server": state.server,
        "status": state.status,
        "pid": state.pid,
        "started": state.started.isoformat() if state.started else None,
        "ended": state.ended.isoformat() if state.ended else None,
        "phase": state.phase or None,
        "backup": state.backup or None,
        "reason": state.reason or None,
        "fix": state.fix or None,
        "user": state.user,
        "created": state.created.isoformat(),
        "phases_seen": list(state.phases_seen),
        "progress": ev.to_json(state.progress) if state.progress else None,
        "log": [ev.to_json(note) for note in state.log],
        "result": dict(state.result),
    }


def from_json(document: Mapping[str, Any], directory: str) -> JobState:
    """Return the state that `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
    progress = ev.from_json(document["progress"]) if document.get("progress") else None
    return JobState(
        id=document["id"],
        kind=document["kind"],
        server=document["server"],
        status=cast(JobStatus, document["status"]),
        created=datetime.fromisoformat(document["created"]),
        user=document["user"],
        pid=document["pid"],
        started=datetime.fromisoformat(document["started"]) if document["started"] else None,
        ended=datetime.fromisoformat(document["ended"]) if document["ended"] else None,
        phase=document["phase"] or "",
        phases_seen=tuple(document["phases_seen"]),
        backup=document["backup"] or "",
        reason=document["reason"] or "",
        fix=document["fix"] or "",
        progress=progress if isinstance(progress, ev.Progress) else None,
        log=tuple(note for note in map(ev.from_json, document["log"]) if isinstance(note, ev.Note)),
        result=dict(document["result"]),
        directory=directory,
    )
