"""Saving a restore's plan to a file, to be run later or by somebody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.widgets import Input

from engine import trail
from engine.actions import command_line
from engine.errors import CellarmanError
from engine.recovery import planfile
from engine.recovery.plan import Plan
from tui.format import Line, plain
from tui.screens.form import Form

if TYPE_CHECKING:
    from tui.app import Console


class SavePlan(Form):
    """Where the plan goes."""

    WORD: ClassVar[str] = "save"

    def __init__(self, plan: Plan, now: datetime, saved: Callable[[str], object]) -> None:
        super().__init__()
        self._plan, self._now, self._told = plan, now, saved

    def says(self) -> list[Line]:
        return [
            ((f"Save the plan of this restore of {plain(self._plan.order.server)}.", "strong"),),
            (),
            (("It can be looked at again and run from any terminal. A name that ends in .json makes JSON.", "text"),),
            (),
        ]

    def inputs(self) -> ComposeResult:
        name = f"~/restore-{self._plan.order.server}-{self._now:%Y%m%dT%H%M%S}.toml"
        yield self.line("file", Input(name, compact=True, max_length=400, id="file"))

    @property
    def _file(self) -> str:
        return self.query_one("#file", Input).value.strip()

    def problem(self) -> str:
        return "" if self._file else "Name a file."

    def command(self) -> str:
        return command_line(self.app.config, "restore", "--plan-file", os.path.expanduser(self._file))

    def go(self) -> None:
        self.app.run_worker(partial(self._save, self.app, self._file), thread=True, exit_on_error=False, group="save")

    def _save(self, app: Console, path: str) -> None:
        """Write the plan in a thread; by then the dialog is gone, and with it its way to the app."""
        try:
            saved = planfile.save(path, self._plan, now=self._now, by=trail.account())
        except CellarmanError as error:
            app.call_from_thread(app.problem, error)
        else:
            app.call_from_thread(self._told, saved)
