"""Doing one of the engine's actions from a screen: in a thread, its outcome said, its error shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from engine.errors import CellarmanError

if TYPE_CHECKING:
    from engine.actions import Actions
    from tui.app import Console

Work = Callable[["Actions"], str]
"""What is to be done; returns the sentence that says what came out."""


def act(app: Console, work: Work, *, then: Callable[[], object] | None = None) -> None:
    """Do it in a thread; `then` is called on the screen's side when it went well."""
    app.run_worker(partial(_act, app, work, then), thread=True, exit_on_error=False, group="act")


def _act(app: Console, work: Work, then: Callable[[], object] | None) -> None:
    from engine.actions import Actions

    actions = Actions(app.config, "console", app.read_only, lambda text: app.call_from_thread(app.say, text))
    try:
        said = work(actions)
    except CellarmanError as error:
        app.call_from_thread(app.problem, error)
        return
    app.lookout.wake()
    app.call_from_thread(_done, app, said, then)


def _done(app: Console, said: str, then: Callable[[], object] | None) -> None:
    app.say(said)
    if then is not None:
        then()
