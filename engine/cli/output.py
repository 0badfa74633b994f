"""What verbs print: plain tables and sentences for people, one JSON document for programs. No terminal is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from engine import amounts


def json_out(document: Any) -> None:
    """Print one JSON document; datetimes become ISO 8601 with offset, anything else unknown its text."""
    json.dump(document, sys.stdout, indent=2, default=_plain, ensure_ascii=False)
    sys.stdout.write("\n")


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def warn(text: str) -> None:
    """Tell people what went wrong beside the work itself."""
    print(printable(text), file=sys.stderr)


def table(rows: Iterable[Sequence[object]], headers: Sequence[str] = (), right: Iterable[int] = ()) -> None:
    """Print rows as a plain table; `right` are the numbers of the columns to align right."""
    for line in table_lines(rows, headers, right):
        print(line)


def table_lines(rows: Iterable[Sequence[object]], headers: Sequence[str] = (), right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table: two spaces between columns, headers in capitals, None as "-".

    >>> table_lines([("main", 12), ("a", None)], ("name", "size"), right={1})
    ['NAME  SIZE', 'main    12', 'a        -']
    """
    cells = [[name.upper() for name in headers]] if headers else []
    cells += [["-" if value is None else printable(str(value)) for value in row] for row in rows]
    if not cells:
        return []
    columns = max(map(len, cells))
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(columns)]
    numbers = set(right)
    return [
        "  ".join(
            text.rjust(widths[i]) if i in numbers else text.ljust(widths[i]) for i, text in enumerate(row)
        ).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    r"""Return text with control characters escaped: what comes from outside must not move the cursor.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def one_line(text: str) -> str:
    r"""Return text of several lines as one, printable.

    >>> one_line("refused\n\tIs the server running?\n")
    'refused Is the server running?'
    """
    return printable(" ".join(map(str.strip, text.strip().splitlines())))


def size(count: int | None) -> str:
    """Return bytes for people, in powers of 1024.

    >>> size(0), size(1536), size(16 * 1024**2), size(None)
    ('0 B', '1.5 KiB', '16 MiB', '-')
    """
    return "-" if count is None else amounts.size(count)


def iso(moment: datetime | None) -> str | None:
    """Return a moment for programs: ISO 8601 with offset, None for None."""
    return moment.isoformat() if moment else None


def when(moment: datetime | None) -> str:
    """Return a moment for people: this machine's zone, to the second, with the offset."""
    return moment.astimezone().isoformat(" ", "seconds") if moment else "-"


def duration(seconds: float | None) -> str:
    """Return a length of time for people, two units at most.

    >>> duration(42), duration(192), duration(7260), duration(200000), duration(None)
    ('42 s', '3 min 12 s', '2 h 1 min', '2 d 7 h', '-')
    """
    if seconds is None:
        return "-"
    whole = round(seconds)
    for length, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"
