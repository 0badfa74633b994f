"""The only place with colours: each role's meaning in each theme.

Green can restore, red cannot, amber soon will not, blue is moving, rose is the hand (cursor, keys, backups);
everything else is grey in three depths. No colour says anything that a symbol or word does not say too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from textual.theme import Theme


def _theme(name: str, dark: bool, **colours: str) -> Theme:
    ground = colours.pop("ground")
    raised = colours.pop("raised")
    cursor = colours.pop("cursor")
    return Theme(
        name=name,
        dark=dark,
        primary=colours["hand"],
        secondary=colours["moving"],
        accent=colours["hand"],
        success=colours["good"],
        warning=colours["soon"],
        error=colours["bad"],
        foreground=colours["text"],
        background=ground,
        surface=raised,
        panel=raised,
        variables={
            **colours,
            "cursor-ground": cursor,
            "cursor-style": "none",
            "quiet-style": "none",
            "faint-style": "none",
            "rule-style": "none",
            "border-blurred": colours["rule"],
            "border": colours["quiet"],
            "scrollbar": colours["rule"],
            "scrollbar-hover": colours["quiet"],
            "scrollbar-active": colours["quiet"],
            "scrollbar-background": ground,
            "scrollbar-background-hover": ground,
            "scrollbar-background-active": ground,
            "scrollbar-corner-color": ground,
            "input-cursor-background": colours["text"],
            "input-cursor-foreground": ground,
            "block-cursor-background": cursor,
            "block-cursor-foreground": colours["text"],
            "block-cursor-text-style": "none",
        },
    )


CELLAR = _theme(
    "cellar",
    True,
    ground="#0f1417",
    raised="#151b20",
    cursor="#1c252c",
    text="#c9d1d9",
    strong="#e4e9ee",
    quiet="#7d8b97",
    faint="#4a5660",
    rule="#27313a",
    good="#7fb685",
    soon="#e5b567",
    bad="#e06c6c",
    moving="#6cb6d9",
    hand="#d98ea0",
)
PAPER = _theme(
    "paper",
    False,
    ground="#fbfaf7",
    raised="#f1efe9",
    cursor="#e9e5dc",
    text="#2c3238",
    strong="#0d1116",
    quiet="#66707a",
    faint="#a9b0b6",
    rule="#d9d6cd",
    good="#2f7d3a",
    soon="#9a6200",
    bad="#b3261e",
    moving="#1f6f96",
    hand="#a3395a",
)
BLUE_ORANGE = _theme(
    "blue-orange",
    True,
    ground="#0f1417",
    raised="#151b20",
    cursor="#1c252c",
    text="#c9d1d9",
    strong="#e4e9ee",
    quiet="#7d8b97",
    faint="#4a5660",
    rule="#27313a",
    good="#5aa9e6",
    soon="#f2d06b",
    bad="#f0883e",
    moving="#b9a5e8",
    hand="#e8e8e8",
)
CONTRAST = _theme(
    "contrast",
    True,
    ground="#000000",
    raised="#1a1a1a",
    cursor="#3a3a3a",
    text="#ffffff",
    strong="#ffffff",
    quiet="#d0d0d0",
    faint="#b0b0b0",
    rule="#8a8a8a",
    good="#5cff5c",
    soon="#ffd700",
    bad="#ff8080",
    moving="#66d9ff",
    hand="#ff9ee0",
)
TERMINAL = Theme(
    name="terminal",
    ansi=True,
    dark=True,
    primary="ansi_magenta",
    secondary="ansi_cyan",
    accent="ansi_magenta",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "text": "ansi_default",
        "strong": "ansi_default",
        "quiet": "ansi_default",
        "faint": "ansi_default",
        "rule": "ansi_default",
        "good": "ansi_green",
        "soon": "ansi_yellow",
        "bad": "ansi_red",
        "moving": "ansi_cyan",
        "hand": "ansi_magenta",
        "cursor-ground": "ansi_default",
        "cursor-style": "reverse",
        "quiet-style": "dim",
        "faint-style": "dim",
        "rule-style": "dim",
        "input-cursor-background": "ansi_default",
        "input-cursor-foreground": "ansi_default",
        "input-cursor-text-style": "reverse",
        "block-cursor-background": "ansi_default",
        "block-cursor-foreground": "ansi_default",
        "block-cursor-text-style": "reverse",
        "screen-selection-background": "ansi_default",
        "screen-selection-foreground": "ansi_default",
    },
)

THEMES = {theme.name: theme for theme in (CELLAR, PAPER, BLUE_ORANGE, CONTRAST, TERMINAL)}
ALSO = {
    "dark": CELLAR.name,
    "light": PAPER.name,
    "colour-blind": BLUE_ORANGE.name,
    "color-blind": BLUE_ORANGE.name,
    "high-contrast": CONTRAST.name,
    "ansi": TERMINAL.name,
}
"""What each theme is for, as a name."""
SAYS = {
    "dark": "A dark ground.",
    "light": "A light ground.",
    "high-contrast": "Black and white, and few strong colours.",
    "colour-blind": "Blue and orange in place of green and red.",
    "ansi": "The terminal's own colours.",
}
"""The names that are offered, and what each means."""


def few_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this terminal should get its own palette: NO_COLOR, or fewer than 256 colours.

    >>> few_colours({"TERM": "xterm-256color"}), few_colours({"TERM": "screen"}), few_colours({"NO_COLOR": "1"})
    (False, True, True)
    """
    if environ.get("NO_COLOR"):
        return True
    if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    term = environ.get("TERM", "")
    return "256color" not in term and not term.startswith(("xterm-kitty", "alacritty", "foot", "wezterm", "ghostty"))


def chosen(name: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """Return the theme to use: the one asked for, else by the terminal."""
    name = ALSO.get(name, name)
    if name in THEMES:
        return name
    return TERMINAL.name if few_colours(environ) else CELLAR.name
