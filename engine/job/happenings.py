"""What happened, newest first: the trail of actions, with how the jobs that they started stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from engine import trail
from engine.job.state import JobState
from engine.postgres import dsn

Status = Literal["running", "done", "refused", "failed", "cancelled", "interrupted", "died"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One action of an operator or a job, and how it ended."""

    at: datetime
    status: Status
    action: str
    server: str
    subject: str = ""
    who: str = ""
    """Who did it; empty for what is only known from a job's journal without a name."""
    where: str = ""
    """From where: the other end of the SSH connection, or the terminal."""
    via: str = ""
    """As in the trail."""
    command: str = ""
    detail: str = ""
    job: str = ""
    ended: datetime | None = None


def happenings(state_directory: str, jobs: Sequence[JobState], last: int = 1000) -> list[Happening]:
    """Return what the trail and the jobs tell, newest first, at most `last`; `jobs` are newest first.

    A job and the action that started it are one. Jobs from before the trail began are told from their journals.
    """
    states = {job.id: job for job in jobs}
    entries = trail.read(state_directory, last)
    ends = {entry.job: entry for entry in entries if entry.via == "job"}
    found: list[Happening] = []
    told: set[str] = set()
    for entry in entries:
        if entry.via == "job":
            continue
        found.append(_told(entry, states.get(entry.job), ends.get(entry.job)))
        told.add(entry.job)
    found += [_from_journal(job) for job in jobs if job.id not in told]
    return sorted(found, key=lambda each: each.at, reverse=True)[:last]


def _told(entry: trail.Entry, job: JobState | None, end: trail.Entry | None) -> Happening:
    status: Status = "running" if entry.outcome == "started" else entry.outcome
    detail, ended = entry.detail, None
    if job is not None and entry.outcome == "started":
        status, detail, ended = job.status, _detail(job), job.ended
    elif end is not None and entry.outcome == "started":
        status = "running" if end.outcome == "started" else end.outcome
        detail, ended = end.detail, end.at
    return Happening(
        entry.at,
        status,
        entry.action,
        entry.server,
        entry.subject,
        entry.who,
        entry.ssh.split()[0] if entry.ssh else entry.tty.removeprefix("/dev/"),
        entry.via,
        dsn.redact(entry.command),
        detail,
        entry.job,
        ended,
    )


def _detail(job: JobState) -> str:
    if job.status == "done":
        return str(job.result.get("summary", ""))
    return job.reason


def _from_journal(job: JobState) -> Happening:
    return Happening(
        job.started or job.created,
        job.status,
        job.kind,
        job.server,
        job.backup,
        job.user,
        detail=_detail(job),
        job=job.id,
        ended=job.ended,
    )
