"""Lines of spans, painted straight to the terminal; the base of everything that shows text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from tui.format import Line, fit, wrap

if TYPE_CHECKING:
    from tui.app import Console


class Painter(Widget):
    """Turns lines of (text, role) into strips; the theme gives each role its style."""

    app: Console

    def role_style(self, role: str) -> Style:
        """Return the style of a role; "!" at its end makes it bold."""
        variables = self.app.theme_variables
        return _style(role, variables[role.rstrip("!")], variables.get(f"{role}-style", "none"))

    def cut(self, line: Line, width: int) -> Line:
        """Return the line cut to `width`, marked with this terminal's sign for a cut."""
        return fit(line, width, self.app.glyphs.ellipsis)

    @property
    def cursor_style(self) -> Style:
        """What the row under the cursor adds."""
        variables = self.app.theme_variables
        if variables["cursor-style"] == "reverse":
            return Style(reverse=True)
        return Style(bgcolor=Color.parse(variables["cursor-ground"]).rich_color)

    def strip_of(self, line: Line, width: int, *, cursor: bool = False, y: int = 0) -> Strip:
        """Paint one line, cut or filled to `width`; selectable when `y` is its place in the text."""
        base = self.rich_style
        if cursor:
            base = base + self.cursor_style
        segments = [Segment(_clean(text), base + self.role_style(role)) for text, role in line if text]
        strip = Strip(segments).adjust_cell_length(width, base)
        selection = self.text_selection
        if selection is not None and (chosen := selection.get_span(y)) is not None:
            start, end = chosen
            strip = _selected(strip, start, width if end == -1 else end, self.selection_style)
        return strip.apply_offsets(0, y)


@lru_cache(256)
def _style(role: str, colour: str, manner: str) -> Style:
    bold = True if role.endswith("!") or role == "strong" else None
    return Style(color=Color.parse(colour).rich_color, bold=bold, dim=True if manner == "dim" else None)


def _clean(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _selected(strip: Strip, start: int, end: int, style: Style) -> Strip:
    middle = [Segment(text, (own or Style()) + style) for text, own, _ in strip.crop(start, end)]
    return Strip.join([strip.crop(0, start), Strip(middle), strip.crop(end)])


class Lines(Painter):
    """A few lines of text, as high as they are; repaints only lines that changed."""

    DEFAULT_CSS = """
    Lines { height: auto; width: 1fr; }
    """

    def __init__(
        self,
        *lines: Line,
        wrapped: bool = False,
        fixed: bool = False,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`fixed`: the stylesheet gives its height, so that no other text needs the screen to be laid out anew."""
        super().__init__(id=id, classes=classes)
        self._fixed = fixed
        self._lines: tuple[Line, ...] = lines
        self._wrapped = wrapped
        self._laid: tuple[int, tuple[Line, ...]] = (-1, ())

    @property
    def lines(self) -> tuple[Line, ...]:
        return self._lines

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the text; nothing is sent to the terminal for lines that stay the same."""
        new = tuple(lines)
        if new == self._lines:
            return
        width = self.size.width
        before = self._rows(width)
        self._lines = new
        self._laid = (-1, ())
        after = self._rows(width)
        if not self._fixed and (not width or len(before) != len(after)):
            self.refresh(layout=True)
            return
        for y, (old, row) in enumerate(zip_longest(before, after)):
            if old != row:
                self.refresh(Region(0, y, width, 1))

    def _rows(self, width: int) -> tuple[Line, ...]:
        if not self._wrapped:
            return self._lines
        if self._laid[0] != width:
            self._laid = (width, tuple(row for line in self._lines for row in wrap(line, width, _hanging(line))))
        return self._laid[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._rows(width))

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        rows = self._rows(width)
        return self.strip_of(self.cut(rows[y], width) if y < len(rows) else (), width, y=y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join("".join(text for text, _ in row) for row in self._rows(self.size.width))
        return selection.extract(text), "\n"


def _hanging(line: Line) -> int:
    """Return how far continued rows go in: below the text that follows a sign or a label."""
    label = line[0][0] if line else ""
    return len(label) if label.endswith(" ") and len(label) <= 14 else 0
