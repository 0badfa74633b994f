"""Lines of spans, painted straight to the terminal; the base of everything that shows text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from tui.format import Line, fit, wrap
from tui.themes import ROLES


class Painter(Widget):
    """Turns lines of (text, role) into strips; roles become colours through component classes."""

    COMPONENT_CLASSES = {f"painter--{role}" for role in (*ROLES, "cursor")}
    DEFAULT_CSS = """
    Painter {
        & > .painter--text { color: $text; }
        & > .painter--strong { color: $strong; text-style: bold; }
        & > .painter--quiet { color: $quiet; text-style: $quiet-style; }
        & > .painter--faint { color: $faint; text-style: $quiet-style; }
        & > .painter--rule { color: $rule; text-style: $quiet-style; }
        & > .painter--good { color: $good; }
        & > .painter--soon { color: $soon; }
        & > .painter--bad { color: $bad; }
        & > .painter--moving { color: $moving; }
        & > .painter--hand { color: $hand; }
        & > .painter--cursor { background: $cursor-ground; text-style: $cursor-style; }
    }
    """

    def role_style(self, role: str) -> Style:
        """Return the style of a role; "!" at its end makes it bold."""
        bold = role.endswith("!")
        style = self.get_component_rich_style(f"painter--{role.rstrip('!')}", partial=True)
        return style + Style(bold=True) if bold else style

    def strip_of(self, line: Line, width: int, *, cursor: bool = False, y: int = 0) -> Strip:
        """Paint one line, cut or filled to `width`; selectable when `y` is its place in the text."""
        base = self.rich_style
        if cursor:
            base = base + self.get_component_rich_style("painter--cursor", partial=True)
        segments = [Segment(_clean(text), base + self.role_style(role)) for text, role in line if text]
        strip = Strip(segments).adjust_cell_length(width, base)
        selection = self.text_selection
        if selection is not None and (chosen := selection.get_span(y)) is not None:
            start, end = chosen
            strip = _selected(strip, start, width if end == -1 else end, self.selection_style.rich_style)
        return strip.apply_offsets(0, y)


def _clean(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _selected(strip: Strip, start: int, end: int, style: Style) -> Strip:
    middle = strip.crop(start, end)
    return Strip.join([strip.crop(0, start), Strip.join([middle]).apply_style(style), strip.crop(end)])


class Lines(Painter):
    """A few lines of text, as high as they are; repaints only lines that changed."""

    DEFAULT_CSS = """
    Lines { height: auto; width: 1fr; }
    """

    def __init__(self, *lines: Line, wrapped: bool = False, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
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
        before = self._lines
        self._lines = new
        self._laid = (-1, ())
        if len(before) != len(new) or self._wrapped:
            self.refresh(layout=True)
            return
        for y, (old, line) in enumerate(zip(before, new, strict=True)):
            if old != line:
                self.refresh(Region(0, y, self.size.width, 1))

    def _rows(self, width: int) -> tuple[Line, ...]:
        if not self._wrapped:
            return self._lines
        if self._laid[0] != width:
            self._laid = (width, tuple(row for line in self._lines for row in wrap(line, width)))
        return self._laid[1]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._rows(width))

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        rows = self._rows(width)
        return self.strip_of(fit(rows[y], width) if y < len(rows) else (), width, y=y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join("".join(text for text, _ in row) for row in self._rows(self.size.width))
        return selection.extract(text), "\n"
