"""One daemon thread looks at the disk and publishes immutable snapshots; the screens only ever see those."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from tui.snapshot import Snapshot, minute_of, utc_now

if TYPE_CHECKING:
    from engine.config import Config
    from engine.job.state import JobState
    from engine.status import ServerStatus, Statuses
    from engine.status.live import Live, Poller
    from tui.journal import Journal
    from tui.operators import Lease

STATUS_PAUSE = 2.0
"""Seconds between two looks at the repository."""
QUIET_PAUSE = 1.0
"""Seconds between two looks at the jobs while none runs."""
BUSY_PAUSE = 0.25
FIRST_PAUSE = 0.4
"""Seconds between two snapshots of a first look that takes long."""


@dataclass
class Watch:
    """The thread. `look_at` names the job whose journal is read too; `wake` makes it look at once."""

    config: Config
    publish: Callable[[Snapshot], None]
    broke: Callable[[BaseException], None]
    now: Callable[[], datetime] = utc_now
    pause: float = STATUS_PAUSE
    """Seconds between two looks at the repository."""
    read_only: bool = False
    lease: Lease | None = None
    _poller: Poller | None = None
    _again: bool = False
    _look_at: str = ""
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        if self._poller is not None:
            self._poller.stop()
        if self.lease is not None:
            self.lease.end()

    def look_at(self, job_id: str) -> None:
        """Read this job's journal from now on; an empty id reads none."""
        if job_id != self._look_at:
            self._look_at = job_id
            self._wake.set()

    def wake(self) -> None:
        """Look at everything again now, and ask the servers."""
        self._again = True
        if self._poller is not None:
            self._poller.wake()
        self._wake.set()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # the thread's edge: what breaks here is reported by the app, never lost
            self.broke(error)

    def _loop(self) -> None:
        # Imported here, in the thread, so that the first paint does not wait for them.
        from engine.errors import CellarmanError
        from engine.status.live import Poller
        from tui.operators import Lease

        self.lease = Lease(self.config.state_directory, self.read_only)
        self._poller = Poller(list(self.config.servers.values()), self._wake.set)
        self._poller.start()
        published = Snapshot(minute_of(self.now()), looked=False)
        look = self._looks()
        while not self._stopped.is_set():
            try:
                snapshot = next(look)
            except (OSError, CellarmanError) as error:
                snapshot = replace(published, trouble=str(error))
                look = self._looks()
            if snapshot != published and not self._stopped.is_set():
                self.publish(snapshot)
                published = snapshot
            if snapshot.looked or snapshot.trouble:
                running = bool(snapshot.running) and not snapshot.trouble
                self._wake.wait(BUSY_PAUSE if running else QUIET_PAUSE)

    def _looks(self) -> Iterator[Snapshot]:
        """Yield one snapshot after the other, each of what is on the disk by then."""
        from engine import trail
        from engine.job import follow
        from engine.status import Statuses

        assert self._poller is not None
        assert self.lease is not None
        statuses = Statuses(self.config)
        jobs: tuple[JobState, ...] = ()
        read: tuple[ServerStatus, ...] = ()
        judged: tuple[ServerStatus, ...] | None = None
        servers: tuple[ServerStatus, ...] = ()
        live: Mapping[str, Live] = {}
        journal: Journal | None = None
        next_status = 0.0
        while True:
            woken, self._again = self._again, False
            self._wake.clear()
            before = {job.id: job.status for job in jobs}
            jobs = tuple(follow.jobs(self.config.state_directory, {job.id: job for job in jobs}))
            changed = before != {job.id: job.status for job in jobs}
            began = time.monotonic()
            if woken or changed or began >= next_status:
                if not read:
                    yield from self._first_look(statuses, jobs)
                found = statuses.read(jobs, self.now())
                read = read if found == read else found
                # A repository that is slow to read is read less often.
                next_status = began + max(self.pause, 10 * (time.monotonic() - began))
            answers = self._poller.answers()
            if answers != live or read is not judged:
                live, judged = answers, read
                servers = self._judged(read, live)
            journal = self._followed(journal, jobs)
            view = journal.view if journal else None
            trail_at = _changed(trail.path(self.config.state_directory))
            yield Snapshot(minute_of(self.now()), servers, jobs, view, live, self.lease.beat(), trail_at)

    def _first_look(self, statuses: Statuses, jobs: tuple[JobState, ...]) -> Iterator[Snapshot]:
        """Yield what is known so far, from time to time, while many servers are read for the first time."""
        found: list[ServerStatus] = []
        told = time.monotonic()
        for status in statuses.each(jobs, self.now()):
            found.append(status)
            if time.monotonic() - told > FIRST_PAUSE:
                told = time.monotonic()
                yield Snapshot(minute_of(self.now()), tuple(found), jobs, looked=False)

    def _judged(self, read: tuple[ServerStatus, ...], live: Mapping[str, Live]) -> tuple[ServerStatus, ...]:
        from engine.status import worst_first
        from engine.status.live import judged

        configured = self.config.servers
        return worst_first([judged(status, live.get(status.name), configured[status.name]) for status in read])

    def _followed(self, journal: Journal | None, jobs: tuple[JobState, ...]) -> Journal | None:
        wanted = next((job for job in jobs if job.id == self._look_at), None)
        if wanted is None:
            return None
        if journal is None or journal.view.state.id != wanted.id:
            from tui.journal import Journal as Reader

            journal = Reader(wanted)
        journal.read(wanted)
        return journal


def _changed(path: str) -> int:
    """Return when a file was changed last, in nanoseconds; 0 when there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
