"""The last look at the servers, kept on disk: the next console shows it at once, and says how old it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tui import memory
from tui.format import Line


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the list of servers showed."""

    at: datetime
    rows: tuple[tuple[str, tuple[Line, ...]], ...] = ()
    """Name and cells of each server."""
    detail: tuple[Line, ...] = ()
    """What stood below about the first one."""


def _path(state_directory: str) -> str:
    return os.path.join(memory.directory(state_directory), "servers.json")


def load(state_directory: str) -> Remembered | None:
    """Return the last look, its roles all quiet: what is old is shown as such; None when there is none."""
    document = memory.load(_path(state_directory))
    try:
        rows = tuple((str(name), tuple(_old(cell) for cell in cells)) for name, cells in document["rows"])
        return Remembered(
            datetime.fromisoformat(document["at"]), rows, tuple(_old(line) for line in document["detail"])
        )
    except (TypeError, KeyError, ValueError):
        return None


def keep(state_directory: str, look: Remembered) -> None:
    """Write the look for the next console."""
    document = {"at": look.at.isoformat(), "rows": look.rows, "detail": look.detail}
    memory.keep(_path(state_directory), document)


def _old(line: Sequence[Any]) -> Line:
    return tuple((str(text), "strong" if role == "strong" else "quiet") for text, role in line)
