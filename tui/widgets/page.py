"""Text that may be longer than its place: the keys that move in lists scroll it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.containers import VerticalScroll


class Page(VerticalScroll, can_focus=False):
    """What is put into it, and a scroll bar where that is more than is seen."""

    def move(self, by: int) -> None:
        """Go on by so many rows."""
        self.scroll_to(y=self.scroll_offset.y + by, animate=False)

    @property
    def page(self) -> int:
        return max(1, self.size.height - 1)

    @property
    def rows(self) -> Sequence[object]:
        return range(self.virtual_size.height)
