"""Following a job from the command line: a line of progress on a terminal, plain lines elsewhere, or JSON events."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import Any

from engine import event as ev
from engine.cli import output
from engine.commands import cellarman
from engine.config import Config
from engine.errors import CellarmanError
from engine.job import follow, launch
from engine.job import spec as spec_
from engine.job.state import JobState, fold

INTERRUPTED = 130
BAR = 24
_UNKNOWN = dict.fromkeys(("total_bytes", "files_done", "files_total", "rate_bytes", "eta_seconds"))


def start(config: Config, spec: spec_.JobSpec, *, detach: bool, as_json: bool) -> int:
    """Launch a job; follow it, or print its id when `detach` is asked for. Returns the exit code."""
    job = launch.launch(config, spec, say=output.warn)
    if not detach:
        return watch(config, job, as_json=as_json)
    if as_json:
        output.json_out({"job": job})
    else:
        print(job)
        print(f"follow it with: {_job(config, 'follow', job)}", file=sys.stderr)
    return 0


def _job(config: Config, verb: str, job: str) -> str:
    return cellarman("job", verb, job).line(config.named)


def report(config: Config, spec: spec_.JobSpec, show: Callable[[JobState], object]) -> int:
    """Launch a job, follow it on standard error, and have `show` print what it found on standard output.

    Returns the exit code that its outcome means; Ctrl-C leaves it running.
    """
    job = follow.find(config.state_directory, launch.launch(config, spec, say=output.warn))
    ended = _to_its_end(config, job, Narrator(job, sums=False))
    if ended is None:
        return INTERRUPTED
    show(ended)
    return conclude(ended)


def watch(config: Config, ref: str, *, as_json: bool) -> int:
    """Follow a job to its end and return the exit code that its outcome means; Ctrl-C leaves it running."""
    job = follow.find(config.state_directory, ref)
    ended = _to_its_end(config, job, JsonLines() if as_json else Narrator(job))
    return INTERRUPTED if ended is None else conclude(ended)


def _to_its_end(config: Config, job: JobState, narrator: Narrator | JsonLines) -> JobState | None:
    """Tell a job to its end, and return how it ended; None when Ctrl-C left it running."""
    ended: JobState | None = None
    try:
        for event in follow.follow(job.directory):
            narrator.take(event)
            if isinstance(event, ev.Ended):
                # The events are the truth; the state file is written after them and may not say so yet.
                ended = fold(job, event)
    except KeyboardInterrupt:
        narrator.close()
        print(f"detached: job {job.id} goes on without this terminal", file=sys.stderr)
        print(f"follow it with: {_job(config, 'follow', job.id)}", file=sys.stderr)
        print(f"stop it with:   {_job(config, 'cancel', job.id)}", file=sys.stderr)
        return None
    narrator.close()
    return ended or follow.find(config.state_directory, job.id)


def conclude(job: JobState) -> int:
    """Print how a job that does not run any more ended, when not well, and return its exit code."""
    if job.status == "done":
        return 1 if job.result.get("good") is False else 0
    error = job.result.get("error", {})
    if job.status == "died":
        failure = CellarmanError(f"job {job.id} died", job.reason, job.fix)
    elif error:
        failure = CellarmanError(error["what"], error["why"], error["fix"])
    else:
        failure = CellarmanError(f"job {job.id} is {job.status}", job.reason, job.fix)
    print("\n".join(failure.lines("")), file=sys.stderr)
    return int(error.get("exit_code", CellarmanError.exit_code))


class JsonLines:
    """Prints each event as one line of JSON on standard output."""

    def take(self, event: ev.Event) -> None:
        document = ev.to_json(event)
        if isinstance(event, ev.Progress):
            document = {**_UNKNOWN, **document}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing is left open."""


class Narrator:
    """Tells a job on standard error: a line for what happens, and on a terminal one that shows how far it is."""

    def __init__(self, job: JobState, *, sums: bool = True) -> None:
        """`sums`: whether it says on standard output what came out, when all went well."""
        self._job, self._sums = job, sums
        self._tty = sys.stderr.isatty()
        self._drawn = False

    def take(self, event: ev.Event) -> None:
        """Show one event."""
        if isinstance(event, ev.Progress):
            if self._tty:
                self._draw(progress_line(event, shutil.get_terminal_size().columns))
            return
        line = narrate(event)
        if line:
            self._clear()
            print(line, file=sys.stderr)
        if isinstance(event, ev.Phase) and self._tty:
            self._draw(f"  {event.phase} …")
        if isinstance(event, ev.Ended) and event.status == "done":
            self._clear()
            if self._sums:
                print(summary(self._job, event.result))

    def _draw(self, text: str) -> None:
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            self._drawn = False

    def close(self) -> None:
        """Leave the terminal on a line of its own."""
        self._clear()
        sys.stderr.flush()


def narrate(event: ev.Event) -> str:
    """Return the line that an event is worth, empty for none."""
    at = f"{event.at.astimezone():%H:%M:%S}"
    if isinstance(event, ev.Started):
        return f"{at} {event.kind} of {event.server}: job {event.job}, pid {event.pid}"
    if isinstance(event, ev.BackupNamed):
        return f"{at} backup {event.backup}"
    if isinstance(event, ev.Phase):
        return f"{at} {event.phase}" + (f": {output.printable(event.detail)}" if event.detail else "")
    if isinstance(event, ev.Note):
        mark = "" if event.level == "info" else f"{event.level}: "
        return f"{at}   {mark}{output.one_line(event.text)}"
    return ""


def progress_line(progress: ev.Progress, columns: int) -> str:
    """Return one line for a terminal of that width.

    >>> from datetime import datetime, timezone
    >>> now = datetime(2026, 11, 23, tzinfo=timezone.utc)
    >>> progress_line(ev.Progress(now, "copy", 1 << 29, 1 << 30, rate_bytes=2.0 ** 28, eta_seconds=2), 100)
    '  copy [############            ]  50%  512 MiB of 1 GiB  256 MiB/s  left 2 s'
    """
    parts = [f"  {progress.phase}"]
    if progress.total_bytes:
        part = min(1.0, progress.done_bytes / progress.total_bytes)
        parts[0] += f" [{'#' * int(part * BAR):<{BAR}}] {part:4.0%}"
        parts.append(f"{output.size(progress.done_bytes)} of {output.size(progress.total_bytes)}")
    else:
        parts.append(output.size(progress.done_bytes))
    if progress.files_total:
        parts.append(f"{progress.files_done or 0} of {progress.files_total} {progress.counts}")
    if progress.rate_bytes is not None:
        parts.append(f"{output.size(int(progress.rate_bytes))}/s")
    if progress.eta_seconds is not None:
        parts.append(f"left {output.duration(progress.eta_seconds)}")
    if len(progress.lanes) > 1:
        parts.append("at " + ", ".join(output.printable(lane.name) for lane in progress.lanes if lane.name))
    return "  ".join(parts)[: max(columns - 1, 10)]


def summary(job: JobState, result: dict[str, Any]) -> str:
    """Return the line that says what came out of a job that is done."""
    words = result.get("summary")
    return str(words) if words else f"job {job.id}: {job.kind} of {job.server} is done"
