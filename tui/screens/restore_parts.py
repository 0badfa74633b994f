"""The pieces of the restore wizard that hold no state of it: messages, small words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from textual.message import Message

from engine.recovery.choices import Ready
from engine.recovery.plan import Order, Plan
from engine.recovery.target import Target
from tui.commands import Command
from tui.format import Line, plain
from tui.widgets.table import Column

if TYPE_CHECKING:
    from engine.repository.backupinfo import Tablespace

BASES = (
    Column("BACKUP"),
    Column("TYPE", yields=3),
    Column("ENDED (UTC)"),
    Column("AGE", align="right", yields=2),
    Column("SIZE", align="right", yields=1),
    Column("NAME", yields=4, limit=30),
)


class Reckoned(Message, bubble=False):
    """What a restore would do, or why that cannot be said."""

    def __init__(self, order: Order, found: Plan | Exception) -> None:
        super().__init__()
        self.order, self.found = order, found


class Offered(Message, bubble=False):
    """What is offered to choose from."""

    def __init__(self, ready: Sequence[Ready], directory: str | None = None, trouble: str = "") -> None:
        super().__init__()
        self.ready, self.directory, self.trouble = tuple(ready), directory, trouble


@dataclass(frozen=True, slots=True)
class Picked:
    """A moment that was picked on another screen, or is the nearest to one that cannot be reached."""

    target: Target
    words: str
    at: datetime | None = None


def what_is_made(plan: Plan) -> Line:
    where = f"{plan.order.on}:{plan.order.destination}" if plan.order.on else plan.order.destination
    if plan.delta:
        return ("The data directory ", "text"), (plain(where), "bad!"), (" is changed into the backup's.", "text")
    return ("A copy is made in ", "text"), (plain(where), "strong"), (".", "text")


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def space_place(directory: str, space: Tablespace) -> str:
    return f"{directory.rstrip('/')}.tablespaces/{space.oid}"


def key_of(ready: Ready) -> str:
    return "end" if ready.kind == "end" else f"{ready.kind}:{ready.lsn}"


def beside_typing(command: Command) -> str:
    """Return the key of a command that works while letters are typed; empty when none does."""
    if command.id == "every.escape":
        return "esc"
    return next((key for key in command.keys.split(",") if key in ("enter", "shift+tab") or key[1:].isdigit()), "")
