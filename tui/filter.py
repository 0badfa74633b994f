"""What `/` keeps of a list: a regular expression, `!` before it for the opposite, `field=value` for one column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FIELD = re.compile(r"([A-Za-z][\w -]*?)\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Filter:
    """What is kept."""

    text: str
    """As it was typed."""
    pattern: re.Pattern[str]
    field: str = ""
    """The column that is looked at; empty: all of the row."""
    inverted: bool = False
    literal: bool = False
    """Whether it is no regular expression and is looked for as it stands."""

    def keeps(self, cells: Mapping[str, str]) -> bool:
        """Tell whether a row, its text by column, is kept."""
        text = cells.get(self.field, "") if self.field else "  ".join(cells.values())
        return (self.pattern.search(text) is not None) != self.inverted


def parse(text: str, fields: Sequence[str] = ()) -> Filter | None:
    """Return what `text` asks for, or None when it is empty; `fields` are the names of the list's columns.

    >>> rows = [{"server": "crm", "type": "full"}, {"server": "shop", "type": "incr"}]
    >>> [row["server"] for row in rows if parse("ty=^f", list(rows[0])).keeps(row)]
    ['crm']
    >>> [row["server"] for row in rows if parse("!FULL", list(rows[0])).keeps(row)]
    ['shop']
    >>> parse("a[", []).literal
    True
    """
    rest = text.strip()
    inverted = rest.startswith("!")
    rest = rest[1:].strip() if inverted else rest
    field = ""
    asked = _FIELD.fullmatch(rest)
    if asked and (named := _named(asked[1], fields)):
        field, rest = named, asked[2]
        if rest.startswith("!"):
            inverted, rest = not inverted, rest[1:]
    if not rest:
        return None
    try:
        return Filter(text.strip(), re.compile(rest, re.IGNORECASE), field, inverted)
    except re.error:
        return Filter(text.strip(), re.compile(re.escape(rest), re.IGNORECASE), field, inverted, literal=True)


def _named(word: str, fields: Sequence[str]) -> str:
    """Return the one field that a word names, by its whole name or its beginning."""
    wanted = _squeezed(word)
    same = [field for field in fields if field and _squeezed(field) == wanted]
    begin = same or [field for field in fields if field and _squeezed(field).startswith(wanted)]
    return begin[0] if begin else ""


def _squeezed(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")
