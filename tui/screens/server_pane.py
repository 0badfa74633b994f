"""What a tab of the server room is: a part of the screen that paints itself and answers its own keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical

if TYPE_CHECKING:
    from engine.status import ServerStatus
    from tui.app import Console
    from tui.glyphs import Glyphs
    from tui.inspection import Answered, Inspection
    from tui.screens.prompting import Movable
    from tui.screens.server import ServerRoom
    from tui.snapshot import Snapshot


class Pane(Vertical):
    """One tab. What it can do are its methods `do_<verb>`, with `refuse_<verb>` where that depends on what it shows."""

    app: Console
    NAME: ClassVar[str] = ""
    WORDS: ClassVar[dict[str, str]] = {}
    """What the footer calls a verb on this tab."""

    def __init__(self) -> None:
        super().__init__(id=f"tab-{self.NAME}", classes="pane")

    @property
    def room(self) -> ServerRoom:
        from tui.screens.server import ServerRoom

        assert isinstance(self.screen, ServerRoom)
        return self.screen

    @property
    def glyphs(self) -> Glyphs:
        return self.app.glyphs

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        """Bring it up to date; called only while it is the open tab."""
        raise NotImplementedError

    def inspected(self, inspection: Inspection) -> None:
        """Take in what was found out about the server's WAL; called for every tab."""

    def answered(self, answer: Answered) -> None:
        """Take in the answer to a question; called for every tab."""

    def moving(self) -> Movable | None:
        """What the moving keys move."""
        return None
