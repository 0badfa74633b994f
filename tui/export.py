"""What a screen shows, as a file: text as it stands there, CSV or JSON of its table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from tui.format import utc

if TYPE_CHECKING:
    from tui.screens.room import Room

Form = Literal["txt", "csv", "json"]
FORMS: tuple[Form, ...] = ("txt", "csv", "json")


@dataclass(frozen=True, slots=True)
class View:
    """What is written."""

    name: str
    """Of what, for the file's name."""
    fields: Sequence[str] = ()
    rows: Sequence[Mapping[str, str]] = ()
    """The table's rows that the filter keeps, text by column; empty when there is none."""
    lines: Sequence[str] = ()
    """What stands around it, or all when there is no table."""


def view_of(room: Room) -> View:
    """Return what a room shows: its table when it has one, else its log, and the lines around."""
    from tui.widgets.lines import Lines
    from tui.widgets.log import Log
    from tui.widgets.table import Table

    name = "-".join(crumb.replace(" ", "-") for crumb in room.crumbs()) or room.ROOM
    shown = [
        w for w in room.query(Lines) if w.display and w.id not in ("header", "flash", "keys", "too-small", "hints")
    ]
    lines = ["".join(text for text, _ in line) for widget in shown for line in widget.lines]
    moved = room.moving()
    if isinstance(moved, Table):
        fields = [column.field for column in moved.columns if column.field]
        return View(name, fields, [row.texts(moved.columns) for row in moved.rows], lines)
    if isinstance(moved, Log):
        lines += ["", *("".join(text for text, _ in line) for line in moved.lines)]
    return View(name, lines=lines)


def rendered(view: View, form: Form) -> str:
    """Return a view as the content of a file.

    >>> table = View("jobs", ["server", "job"], [{"server": "a,b", "job": "backup"}], ["One job."])
    >>> print(rendered(table, "csv"), end="")
    server,job
    "a,b",backup
    >>> print(rendered(table, "txt"), end="")
    One job.
    <BLANKLINE>
    server  job
    a,b     backup
    >>> json.loads(rendered(table, "json"))["rows"]
    [{'server': 'a,b', 'job': 'backup'}]
    """
    if form == "json":
        document = {"view": view.name, "lines": list(view.lines), "rows": [dict(row) for row in view.rows]}
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        if view.fields:
            writer.writerow(view.fields)
            writer.writerows([row.get(field, "") for field in view.fields] for row in view.rows)
        else:
            writer.writerows([line] for line in view.lines)
        return out.getvalue()
    text = "\n".join(line.rstrip() for line in view.lines).strip("\n")
    table = "\n".join(_aligned([list(view.fields), *([row.get(f, "") for f in view.fields] for row in view.rows)]))
    return "\n\n".join(part for part in (text, table if view.fields else "") if part) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def free_path(name: str, form: str, now: datetime) -> str:
    """Return a path in the current directory, or in the home directory where that cannot be written to."""
    place = os.getcwd() if os.access(os.getcwd(), os.W_OK) else os.path.expanduser("~")
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return os.path.join(place, f"cellarman-{kept}-{utc(now):%Y%m%dT%H%M%SZ}.{form}")


def write(path: str, text: str) -> None:
    """Write a new file for this account alone; raises OSError, FileExistsError when there is one."""
    fd = os.open(os.path.expanduser(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
