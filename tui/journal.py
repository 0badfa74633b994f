"""The journal of the job that is looked at, read as it grows."""

from __future__ import annotations

from dataclasses import replace

from engine import event as ev
from engine.job import follow
from engine.job.state import JobState
from tui.snapshot import JobView

LOG_LINES = 2000
RATES = 600


class Journal:
    """One job's notes, phases and rates so far."""

    def __init__(self, job: JobState) -> None:
        self._tail = follow.Tail(job.directory)
        self.view = JobView(job)

    def read(self, job: JobState) -> None:
        """Take in what was written since the last time; `job` is its state by now."""
        notes, rates = list(self.view.notes), list(self.view.rates)
        for event in self._tail.new():
            if isinstance(event, ev.Note | ev.Phase):
                notes.append(event)
            elif isinstance(event, ev.Progress) and event.rate_bytes is not None and event.phase == "copy":
                rates.append(event.rate_bytes)
        self.view = replace(self.view, state=job, notes=tuple(notes[-LOG_LINES:]), rates=_thinned(rates))


def _thinned(rates: list[float]) -> tuple[float, ...]:
    """Keep a long job's rates few: every second one once there are too many."""
    return tuple(rates if len(rates) <= RATES else rates[::2])
