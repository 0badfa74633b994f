"""One daemon thread looks at the disk and publishes immutable snapshots; the screens only ever see those."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from engine import event as ev
from engine.config import Config
from engine.job import follow
from engine.job.state import JobState
from engine.status import ServerStatus, Statuses

STATUS_PAUSE = 2.0
"""Seconds between two looks at the repository."""
QUIET_PAUSE = 1.0
"""Seconds between two looks at the jobs while none runs."""
BUSY_PAUSE = 0.25
LOG_LINES = 2000
RATES = 600


@dataclass(frozen=True, slots=True)
class JobView:
    """One job in full: its state, its whole log, its rates over time."""

    state: JobState
    notes: tuple[ev.Note | ev.Phase, ...] = ()
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the screens show, at one moment."""

    minute: datetime
    servers: tuple[ServerStatus, ...]
    """Worst first."""
    jobs: tuple[JobState, ...] = ()
    """Newest first."""
    job: JobView | None = None
    """The one that is looked at."""
    looked: bool = True
    """Whether the disk has been read yet."""

    def server(self, name: str) -> ServerStatus | None:
        return next((server for server in self.servers if server.name == name), None)

    @property
    def running(self) -> tuple[JobState, ...]:
        return tuple(job for job in self.jobs if job.status == "running")


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


def minute_of(now: datetime) -> datetime:
    """Return `now` to the minute: what is painted from it changes once a minute at most."""
    return now.replace(second=0, microsecond=0)


def before_looking(config: Config, now: datetime) -> Snapshot:
    """Return what can be shown before the disk was read: the servers' names."""
    servers = [ServerStatus(s.name, "unknown", s.description) for s in config.servers.values() if s.active]
    return Snapshot(minute_of(now), tuple(servers), looked=False)


class _Journal:
    """The journal of the job that is looked at, read as it grows."""

    def __init__(self, job: JobState) -> None:
        self._tail = follow.Tail(job.directory)
        self.view = JobView(job)

    def read(self, job: JobState) -> JobView:
        notes, rates = list(self.view.notes), list(self.view.rates)
        for event in self._tail.new():
            if isinstance(event, ev.Note | ev.Phase):
                notes.append(event)
            elif isinstance(event, ev.Progress) and event.rate_bytes is not None and event.phase == "copy":
                rates.append(event.rate_bytes)
        self.view = replace(self.view, state=job, notes=tuple(notes[-LOG_LINES:]), rates=_thinned(rates))
        return self.view


def _thinned(rates: list[float]) -> tuple[float, ...]:
    """Keep a long job's rates few: every second one once there are too many."""
    return tuple(rates if len(rates) <= RATES else rates[::2])


@dataclass
class Watch:
    """The thread. `look_at` names the job whose journal is read too; `wake` makes it look at once."""

    config: Config
    publish: Callable[[Snapshot], None]
    broke: Callable[[BaseException], None]
    now: Callable[[], datetime] = utc_now
    _look_at: str = ""
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()

    def look_at(self, job_id: str) -> None:
        """Read this job's journal from now on; an empty id reads none."""
        if job_id != self._look_at:
            self._look_at = job_id
            self._wake.set()

    def wake(self) -> None:
        """Look at everything again now."""
        self._wake.set()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # the thread's edge: what breaks here is reported by the app, never lost
            self.broke(error)

    def _loop(self) -> None:
        statuses = Statuses(self.config)
        jobs: tuple[JobState, ...] = ()
        servers: tuple[ServerStatus, ...] = ()
        journal: _Journal | None = None
        published: Snapshot | None = None
        next_status = 0.0
        while not self._stopped.is_set():
            woken = self._wake.is_set()
            self._wake.clear()
            before = {job.id: job.status for job in jobs}
            jobs = tuple(follow.jobs(self.config.state_directory, {job.id: job for job in jobs}))
            changed = before != {job.id: job.status for job in jobs}
            began = time.monotonic()
            if woken or changed or began >= next_status:
                servers = statuses.read(jobs, self.now())
                # A repository that is slow to read is read less often.
                next_status = began + max(STATUS_PAUSE, 10 * (time.monotonic() - began))
            journal = self._journal(journal, jobs)
            snapshot = Snapshot(minute_of(self.now()), servers, jobs, journal.view if journal else None)
            if snapshot != published and not self._stopped.is_set():
                self.publish(snapshot)
                published = snapshot
            running = any(job.status == "running" for job in jobs)
            self._wake.wait(BUSY_PAUSE if running else QUIET_PAUSE)

    def _journal(self, journal: _Journal | None, jobs: tuple[JobState, ...]) -> _Journal | None:
        wanted = next((job for job in jobs if job.id == self._look_at), None)
        if wanted is None:
            return None
        if journal is None or journal.view.state.id != wanted.id:
            journal = _Journal(wanted)
        journal.read(wanted)
        return journal
