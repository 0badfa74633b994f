"""Reading jobs: what there is, what runs, and what a job says while it runs. Any number of readers at once.

A job runs when its lock is held, not because a file says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone

from engine import event as ev
from engine.commands import cellarman
from engine.errors import Advice, CellarmanError, NotFound
from engine.job import spec as spec_
from engine.job import state as state_
from engine.job.state import JobState

POLL = 0.05
"""Seconds between two looks at a journal; a look costs some microseconds."""


def jobs(state_directory: str, known: Mapping[str, JobState] | None = None) -> list[JobState]:
    """Return all jobs, newest first; what cannot be read as a job is left out.

    Jobs that are in `known` (by id) and have ended there are not read again: an end is for ever.
    """
    root = spec_.directory(state_directory)
    try:
        names = [name for name in os.listdir(root) if not name.startswith(".")]
    except FileNotFoundError:
        return []
    ended = {job.id: job for job in (known or {}).values() if job.status not in ("running", "died")}
    found = (ended.get(name) or state(os.path.join(root, name)) for name in names)
    # An id has whole seconds, and two jobs may begin in one.
    return sorted((job for job in found if job is not None), key=lambda job: (job.created, job.id), reverse=True)


def find(state_directory: str, ref: str) -> JobState:
    """Return the job that `ref` names: its id, its end (the four digits after the dash), or `latest`.

    Raises NotFound when there is none, or more than one.
    """
    everything = jobs(state_directory)
    if ref == "latest" and everything:
        return everything[0]
    matching = [job for job in everything if job.id == ref] or [job for job in everything if job.id.endswith(ref)]
    if len(matching) == 1 and ref:
        return matching[0]
    if matching and ref:
        raise NotFound(f"{ref} could be more than one job", ", ".join(job.id for job in matching))
    raise NotFound(f"there is no job {ref}", f"looked in {spec_.directory(state_directory)}", Advice(cellarman("jobs")))


def held(job_directory: str) -> bool:
    """Tell whether the job's worker lives: whether its lock is held."""
    try:
        fd = os.open(os.path.join(job_directory, spec_.LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two readers never take each other for the worker.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def state(job_directory: str) -> JobState | None:
    """Return what is known of the job in this directory, or None when there is no job in it."""
    alive = held(job_directory)  # asked first: an end that is written after this question is seen below
    known = _stored(job_directory)
    if known is None or (known.status == "running" and not alive):
        known = _folded(job_directory) or known
    if known is None or known.status != "running" or alive:
        return known
    heard = _last_heard(job_directory)
    who = f"its worker (pid {known.pid})" if known.pid else "its worker"
    reason = f"{who} died without a word, last heard of at {heard:%Y-%m-%d %H:%M:%S} UTC"
    fix = known.fix or Advice(cellarman("cron"), " marks what it left; then start it again").text(_named(job_directory))
    return replace(known, status="died", ended=heard, reason=reason, fix=fix)


def _named(job_directory: str) -> str:
    """Return the configuration to name to who started the job; "" when that cannot be read."""
    try:
        return spec_.read(job_directory).named
    except CellarmanError:
        return ""


def _stored(job_directory: str) -> JobState | None:
    try:
        with open(os.path.join(job_directory, spec_.STATE), encoding="utf-8") as file:
            return state_.from_json(json.load(file), job_directory)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # derived; the events tell the same


def _folded(job_directory: str) -> JobState | None:
    try:
        known = state_.initial(spec_.read(job_directory), job_directory)
    except CellarmanError:
        return None
    for event in Tail(job_directory).new():
        known = state_.fold(known, event)
    return known


def _last_heard(job_directory: str) -> datetime:
    for name in (spec_.EVENTS, spec_.SPEC):
        try:
            return datetime.fromtimestamp(os.stat(os.path.join(job_directory, name)).st_mtime, timezone.utc)
        except OSError:
            continue
    return datetime.fromtimestamp(os.stat(job_directory).st_mtime, timezone.utc)


class Tail:
    """What was appended to a journal since the last look."""

    def __init__(self, job_directory: str, *, from_start: bool = True) -> None:
        self._path = os.path.join(job_directory, spec_.EVENTS)
        self._offset = 0
        self._rest = b""
        if not from_start:
            self._offset = os.stat(self._path).st_size if os.path.exists(self._path) else 0

    def new(self) -> Iterator[ev.Event]:
        """Yield the whole events that came since the last call; a line that is no event is passed over."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                while block := file.read(1 << 16):
                    self._offset += len(block)
                    *lines, self._rest = (self._rest + block).split(b"\n")
                    for line in lines:
                        event = _parse(line)
                        if event is not None:
                            yield event
        except FileNotFoundError:
            return


def _parse(line: bytes) -> ev.Event | None:
    """Return the event on a line; None for a line torn by a full disk or written by a later version."""
    try:
        return ev.from_json(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return None


def follow(job_directory: str, from_start: bool = True, *, poll: float = POLL) -> Iterator[ev.Event]:
    """Yield the job's events as they come, and stop after its end or when its worker has died.

    Without `from_start` only what comes from now on; for a job that has ended, nothing.
    """
    tail = Tail(job_directory, from_start=from_start)
    while True:
        alive = held(job_directory)  # before reading: what a dying worker still wrote is read below
        for event in tail.new():
            yield event
            if isinstance(event, ev.Ended):
                return
        if not alive:
            return
        time.sleep(poll)
