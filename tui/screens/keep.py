"""Keeping a backup from retention, and the line that people write about it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.widgets import Input

from engine.actions import LONGEST_LABEL, command_line, keep_words, label_of, label_words
from tui.acting import act
from tui.format import Line, plain
from tui.screens.form import Form
from tui.widgets.pick import Pick

if TYPE_CHECKING:
    from engine.repository.annotations import Keep
    from engine.repository.backupinfo import BackupInfo
    from tui.app import Console

HOW: tuple[Keep | None, ...] = (None, "full", "standalone")
WORDS = ("by the policy", "until released", "alone")
MEANINGS = {
    None: "Retention deletes it when the policy says so.",
    "full": "It stays, with all WAL since: every moment after it can be restored to.",
    "standalone": "It stays, with its own WAL only: just the moment of its end can be restored to.",
}
SAID = {None: "goes by the policy", "full": "stays until released", "standalone": "stays, alone"}


class KeepForm(Form):
    """How long a backup stays."""

    WORD: ClassVar[str] = "mark it"

    def __init__(self, server: str, info: BackupInfo) -> None:
        super().__init__()
        self._server_name, self._info = server, info

    def says(self) -> list[Line]:
        name = f" ({plain(self._info.backup_name)})" if self._info.backup_name else ""
        return [((f"How long does backup {self._info.id}{name} stay?", "strong"),), ()]

    def inputs(self) -> ComposeResult:
        now = HOW.index(self._info.keep) if self._info.keep in HOW else 0
        yield Pick("it stays", WORDS, chosen=now, room=10, id="how")

    @property
    def _how(self) -> Keep | None:
        return HOW[self.query_one("#how", Pick).chosen]

    def problem(self) -> str:
        return f"{MEANINGS[self._how]} That is how it is now." if self._how == self._info.keep else ""

    def command(self) -> str:
        return command_line(self.app.config, *keep_words(self._server_name, self._info.id, self._how))

    def note(self) -> str:
        return MEANINGS[self._how]

    def go(self) -> None:
        self.app.note_ran(self.command())
        server, backup, how = self._server_name, self._info.id, self._how
        act(self.app, lambda actions: _kept(actions.keep(server, backup, how).id, how))


def _kept(backup: str, how: Keep | None) -> str:
    return f"{backup} {SAID[how]}; p changes it again."


class LabelForm(Form):
    """A line about a backup, for people."""

    WORD: ClassVar[str] = "write it"

    def __init__(self, server: str, info: BackupInfo) -> None:
        super().__init__()
        self._server_name, self._info = server, info

    def says(self) -> list[Line]:
        return [
            ((f"A line about backup {self._info.id}, for people.", "strong"),),
            (),
            (("It is kept beside the backup; an empty one removes it.", "text"),),
            (),
        ]

    def inputs(self) -> ComposeResult:
        yield self.line("label", Input(compact=True, max_length=LONGEST_LABEL, id="text"))

    def on_mount(self) -> None:
        super().on_mount()
        self.app.run_worker(partial(self._read, self.app), thread=True, exit_on_error=False, group="label")

    def _read(self, app: Console) -> None:
        known = label_of(app.config.servers[self._server_name], self._info.id)
        if known:
            app.call_from_thread(self._known, known)

    def _known(self, label: str) -> None:
        if self.is_mounted and not self._text:
            self.query_one("#text", Input).value = label

    @property
    def _text(self) -> str:
        return " ".join(self.query_one("#text", Input).value.split())

    def command(self) -> str:
        return command_line(self.app.config, *label_words(self._server_name, self._info.id, self._text))

    def go(self) -> None:
        self.app.note_ran(self.command())
        act(self.app, partial(_label, self._server_name, self._info.id, self._text))


def _label(server: str, backup: str, text: str, actions: object) -> str:
    from engine.actions import Actions

    assert isinstance(actions, Actions)
    actions.label(server, backup, text)
    return f"{backup} is labelled {plain(text)}." if text else f"{backup} has no label any more."
