"""The journal that a job writes: append-only events, and a state that is derived from them.

`events.jsonl` is the truth, one event a line, each written by one write(2). `state.json` is what the events fold to,
replaced atomically, so that a reader of many jobs need not read all events.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from engine import event as ev
from engine.errors import Cancelled, CellarmanError, Unproven
from engine.job import spec as spec_
from engine.job import state as state_
from engine.job.spec import JobSpec
from engine.oserrors import explain
from engine.postgres import dsn

PROGRESS_INTERVAL = 0.25
"""Seconds between two progress events at the beginning of a phase."""
LONG_INTERVAL = 1.0
"""Seconds between two progress events of a phase that has run for a minute."""
STATE_INTERVAL = 0.5
"""Seconds between two states of a job that only progresses."""
RATE_WINDOW = 10.0
"""Seconds over which the rate is reckoned."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without passwords: the given ones, and whatever a connection string in it gives as one.

    >>> redact("hunter2 was refused: host=a password='it is' user=b", ["hunter2"])
    '******** was refused: host=a password=******** user=b'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, dsn.MASK)
    return dsn.redact(text)


class Rate:
    """Bytes a second over a moving window."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> float | None:
        """Take how much was done at `now` (seconds of any clock) and return the rate, None until it is known."""
        marks = self._marks
        if marks and done < marks[-1][1]:
            marks.clear()
        marks.append((now, done))
        while len(marks) > 2 and now - marks[1][0] >= RATE_WINDOW:
            marks.popleft()
        elapsed = now - marks[0][0]
        return (done - marks[0][1]) / elapsed if elapsed > 0.2 else None


class JournalReporter:
    """The Reporter of a job: writes the journal, throttles progress, reckons rate and remaining time.

    As a context manager it writes the end: done, failed with the error's words, or cancelled. A journal that cannot
    be written (a full disk) never fails the work: what could not be written is counted and said when it can be again.
    """

    def __init__(self, directory: str, spec: JobSpec, *, secrets: Iterable[str] = ()) -> None:
        self.result: dict[str, Any] = {}
        """JSON-ready facts of what came out; written with the end."""
        self._directory = directory
        self._spec = spec
        self._secrets = tuple(secrets)
        self._state = state_.initial(spec, directory)
        self._events = os.open(
            os.path.join(directory, spec_.EVENTS), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
        )
        self._torn = False
        self._lost = 0
        self._state_written = 0.0
        self._begin_phase()

    def _begin_phase(self) -> None:
        self._rate = Rate()
        self._phase_began = time.monotonic()
        self._progress_written = 0.0
        self._pending: ev.Progress | None = None

    def __enter__(self) -> JournalReporter:
        self._put(ev.Started(_now(), self._spec.id, self._spec.kind, self._spec.server, os.getpid()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush_progress()
        self._put(self._end(error))
        os.fsync(self._events)
        os.close(self._events)

    def hide(self, secrets: Iterable[str]) -> None:
        """Leave these words out of whatever is written from now on."""
        self._secrets += tuple(secrets)

    def clean(self, text: str) -> str:
        """Return a text without what is hidden."""
        return redact(text, self._secrets)

    def _end(self, error: BaseException | None) -> ev.Ended:
        if error is None:
            return ev.Ended(_now(), "done", result=self.result)
        if isinstance(error, OSError):
            error = explain(error)
        if isinstance(error, CellarmanError):
            words = {"what": error.what, "why": error.why, "fix": error.now(self._spec.named)}
            clean = {key: redact(text, self._secrets) for key, text in words.items()}
            found = error.found if isinstance(error, Unproven) else {}
            result = {**self.result, **found, "error": {**clean, "exit_code": error.exit_code}}
            status: ev.Outcome = "cancelled" if isinstance(error, Cancelled) else "failed"
            reason = f"{clean['what']}: {clean['why']}" if clean["why"] else clean["what"]
            return ev.Ended(_now(), status, reason, clean["fix"], result)
        what = redact(f"unexpected {type(error).__name__}: {error}", self._secrets)
        fix = f"this is a bug in Cellarman; its traceback is in {os.path.join(self._directory, spec_.OUTPUT)}"
        result = {**self.result, "error": {"what": what, "why": "", "fix": fix, "exit_code": 4}}
        return ev.Ended(_now(), "failed", what, fix, result)

    def backup(self, backup_id: str) -> None:
        """Say which catalogue entry this work makes or uses."""
        self._put(ev.BackupNamed(_now(), backup_id))

    def phase(self, name: str, detail: str = "") -> None:
        """Begin a phase."""
        self._flush_progress()
        self._begin_phase()
        self._put(ev.Phase(_now(), name, redact(detail, self._secrets)))

    def progress(
        self,
        done_bytes: int,
        total_bytes: int | None = None,
        files_done: int | None = None,
        files_total: int | None = None,
        lanes: tuple[ev.Lane, ...] = (),
    ) -> None:
        """Tell how far the current phase is; written at most four times a second, the last word always."""
        now = time.monotonic()
        rate = self._rate.add(now, done_bytes)
        left = total_bytes - done_bytes if total_bytes is not None else None
        eta = left / rate if left is not None and left >= 0 and rate else None
        self._pending = ev.Progress(
            _now(),
            self._state.phase,
            done_bytes,
            total_bytes,
            files_done,
            files_total,
            round(rate, 1) if rate is not None else None,
            round(eta, 1) if eta is not None else None,
            lanes,
        )
        interval = PROGRESS_INTERVAL if now - self._phase_began < 60 else LONG_INTERVAL
        if now - self._progress_written >= interval:
            self._flush_progress()

    def note(self, text: str, level: ev.Level = "info") -> None:
        """Add a line to the log."""
        self._put(ev.Note(_now(), level, redact(text, self._secrets)))

    def _flush_progress(self) -> None:
        if self._pending is not None:
            event, self._pending = self._pending, None
            self._progress_written = time.monotonic()
            self._put(event)

    def _put(self, event: ev.Event) -> None:
        self._state = state_.fold(self._state, event)
        if isinstance(event, ev.Ended):
            self._write_state()  # before its line: who has read of the end must not find the job running
        line = json.dumps(ev.to_json(event), ensure_ascii=False) + "\n"
        if self._torn:
            line = "\n" + line
        if not self._append(line.encode()):
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self.note(f"{lost} events could not be written to {self._directory}", "warn")
        now = time.monotonic()
        if not isinstance(event, (ev.Progress, ev.Ended)) or now - self._state_written >= STATE_INTERVAL:
            self._state_written = now
            self._write_state()

    def _append(self, line: bytes) -> bool:
        try:
            written = os.write(self._events, line)
        except OSError:
            self._lost += 1
            return False
        self._torn = written < len(line)
        self._lost += self._torn
        return not self._torn

    def _write_state(self) -> None:
        path = os.path.join(self._directory, spec_.STATE)
        try:
            fd = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            with open(fd, "w", encoding="utf-8") as file:
                json.dump(state_.to_json(self._state), file, ensure_ascii=False)
            os.rename(path + ".tmp", path)
        except OSError:
            # Readers that find no end in a state fold the events, so an old state tells nothing wrong.
            return


def _now() -> datetime:
    return datetime.now(timezone.utc)
