"""One table of glyphs, each with an ASCII twin of the same width.

Data uses only glyphs that are one cell wide everywhere (East Asian Width neutral); rules, bars and the axis may use
ambiguous ones, which the ASCII table replaces on terminals that draw them two cells wide.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What each sign looks like."""

    ok: str = "✓"
    warning: str = "!"
    critical: str = "✗"
    running: str = "↻"
    unknown: str = "?"
    waiting: str = "·"
    pinned: str = "⚑"
    hand: str = "▌"
    rule: str = "─"
    bar: str = "━"
    bar_rest: str = "╌"
    line: str = "━"
    lost: str = "┄"
    broken: str = "╳"
    full: str = "◆"
    incremental: str = "◇"
    cursor: str = "▲"
    fork: str = "╰"
    cell: str = "■"
    queued: str = "~"
    fetch: str = "↓"
    accepted: str = "a"
    enter: str = "⏎"
    arrows: str = "← →"
    crumb: str = "›"
    ellipsis: str = "…"
    dash: str = "–"
    dot: str = "·"
    steps: str = " ▁▂▃▄▅▆▇█"


UNICODE = Glyphs()
ASCII = Glyphs(
    ok="+",
    critical="x",
    running="~",
    waiting=".",
    pinned="P",
    hand=">",
    rule="-",
    bar="#",
    bar_rest=".",
    line="=",
    lost=".",
    broken="x",
    full="F",
    incremental="i",
    cursor="^",
    fork="\\",
    cell="+",
    fetch="f",
    enter="enter",
    arrows="<- ->",
    crumb=">",
    ellipsis="~",
    dash="-",
    dot="-",
    steps=" ..::||##",
)


def chosen(ascii_only: bool | None = None, environ: Mapping[str, str] = os.environ) -> Glyphs:
    """Return the table for this terminal; None decides by the terminal and the locale's encoding."""
    if ascii_only is None:
        encoding = locale.getpreferredencoding(False).lower().replace("-", "")
        ascii_only = environ.get("TERM") == "linux" or encoding != "utf8"
    return ASCII if ascii_only else UNICODE
