"""A question over a room: few lines, few keys, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from tui.format import Line, Span
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from tui.app import Console


class Dialog(ModalScreen[None]):
    """Lines in the middle of the screen, and the keys that answer them."""

    CSS_PATH: ClassVar[CSSPathType | None] = "dialog.tcss"
    AUTO_FOCUS = ""
    app: Console

    def says(self) -> list[Line]:
        """Return what the dialog says."""
        raise NotImplementedError

    def answers(self) -> list[tuple[str, str]]:
        """Return (key, word) of each answer."""
        raise NotImplementedError

    def fields(self) -> ComposeResult:
        """Yield what can be filled in, if anything."""
        yield from ()

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Lines(*self.says(), id="says", wrapped=True)
            yield from self.fields()
            yield Lines(self._keys(), id="answers")

    def _keys(self) -> Line:
        spans: list[Span] = []
        for key, word in self.answers():
            shown = self.app.glyphs.enter if key == "enter" else key
            spans += [(shown, "hand!"), (f" {word}", "quiet"), ("     ", "text")]
        return tuple(spans[:-1])
