"""Stopping a job: why it cannot be, the question, and the doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.commands import cellarman
from tui.format import plain

if TYPE_CHECKING:
    from engine.job.state import JobState
    from tui.app import Console

EFFECT = {
    "fetch": "What was archived so far stays: each segment is whole.",
    "aftermath": "Its copy and its marker are removed, and a backup that it is taking is stopped.",
    "verify": "Nothing is changed by stopping it; the backup counts as not verified.",
    "delete": "What is gone stays gone; the backup counts as deleted, and maintenance finishes it.",
    "backup": "What was copied so far is removed. The WAL archive and older backups stay as they are.",
    "restore": "The destination is left half-made and cannot be started.",
}
"""What stopping a kind of job leaves, where that is something."""
ENDED = {
    "done": "It is done already.",
    "failed": "It failed already.",
    "died": "It died already.",
    "cancelled": "It was cancelled already.",
}
"""Why a job that ended cannot be stopped, by how it ended."""


def refusal(job: JobState | None) -> str:
    """Return why a job cannot be stopped; empty when it can."""
    if job is None:
        return "There is no such job."
    return "" if job.status == "running" else ENDED[job.status]


def ask(app: Console, job: JobState) -> None:
    """Ask, and stop the job on a yes."""
    from tui.screens.ask import Ask

    effect = EFFECT.get(job.kind, "Nothing is changed by stopping it.")
    question = f"Stop the {job.kind} of {plain(job.server)}?"
    app.push_screen(Ask(question, effect, "stop it", lambda: _start(app, job.id)))


def _start(app: Console, job_id: str) -> None:
    app.note_ran(cellarman("job", "cancel", job_id).line(app.config.named))
    app.run_worker(lambda: _stop(app, job_id), thread=True, exit_on_error=False, group="cancel")


def _stop(app: Console, job_id: str) -> None:
    from engine.errors import CellarmanError
    from engine.job import launch

    try:
        launch.cancel(app.config, job_id, read_only=app.read_only, via="console")
    except CellarmanError as error:
        app.call_from_thread(app.problem, error)
