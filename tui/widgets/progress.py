"""How far something is, and how fast: a bar and a chart as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tui.format import Line, rate
from tui.glyphs import Glyphs


def bar(done: int, total: int | None, width: int, glyphs: Glyphs, role: str = "moving") -> Line:
    """Return a bar of `width` cells; a total that is not known has an empty one.

    >>> from tui.glyphs import ASCII
    >>> bar(1, 4, 8, ASCII)
    (('##', 'moving'), ('......', 'rule'))
    """
    share = min(1.0, done / total) if total else 0.0
    filled = round(share * width)
    if total and 0 < done < total:
        filled = max(1, min(width - 1, filled))
    return tuple(
        span for span in ((glyphs.bar * filled, role), (glyphs.bar_rest * (width - filled), "rule")) if span[0]
    )


def chart(rates: Sequence[float], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Return `height` lines of columns, the newest at the right; a scale of the highest rate stands at the left.

    >>> from tui.glyphs import ASCII
    >>> [line[1][0] for line in chart([1.0, 2.0, 4.0], 3, 2, ASCII)]
    ['  #', ':##']
    """
    if not any(rates) or width < 1:
        return []
    columns = [max(part) for part in _buckets(rates, width)]
    top = max(columns)
    label = rate(top)
    steps = len(glyphs.steps) - 1
    lines: list[Line] = []
    for row in range(height - 1, -1, -1):
        cells = []
        for value in columns:
            filled = value / top * height * steps - row * steps
            cells.append(glyphs.steps[max(0, min(steps, round(filled)))])
        head = label if row == height - 1 else "0" if row == 0 else ""
        lines.append(((f"{head:>{len(label)}}  ", "quiet"), ("".join(cells), "moving")))
    return lines


def _buckets(rates: Sequence[float], width: int) -> list[Sequence[float]]:
    """Spread the rates over at most `width` columns."""
    if len(rates) <= width:
        return [[value] for value in rates]
    borders = [i * len(rates) // width for i in range(width + 1)]
    return [rates[begin:end] for begin, end in pairwise(borders)]
