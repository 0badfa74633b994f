"""Giving one part of a room the whole screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.screen import Screen
from textual.widget import Widget

_FRAME = {"header", "bottom", "too-small"}
"""What a zoomed part leaves where it is."""


class Zooming(Screen[None]):
    """The part of a room that zooms."""

    ZOOMS: ClassVar[Sequence[str]] = ()
    """The ids of the parts that can have the whole screen, in the order in which `z` gives it."""
    _zoomed: str = ""

    def repaint(self) -> None:
        """Paint all of it anew."""
        raise NotImplementedError

    def refuse_zoom(self) -> str:
        return "" if self.ZOOMS else "There is only one part here."

    def do_zoom(self) -> None:
        """Give the next part the whole screen; after the last, all parts are there again."""
        order = ["", *self.ZOOMS]
        self.zoom(order[(order.index(self._zoomed) + 1) % len(order)])

    def zoom(self, part: str) -> None:
        """Give the part with this id the whole screen; with an empty one, all parts theirs."""
        self._zoomed = part
        for widget in self.query(".-zoomed, .-zoomed-away"):
            widget.remove_class("-zoomed", "-zoomed-away")
        if part:
            widget = self.query_one(f"#{part}")
            widget.add_class("-zoomed")
            while widget is not self:
                above = widget.parent
                assert isinstance(above, Widget)
                for other in above.children:
                    if other is not widget and other.id not in _FRAME:
                        other.add_class("-zoomed-away")
                if above is not self:
                    above.add_class("-zoomed")
                widget = above
        self.call_after_refresh(self.repaint)
