"""What the console remembers from one time to the next, below the state directory: what was typed, and the last look.

Nothing here is needed: what cannot be read is forgotten, what cannot be written is not kept.
"""

from __future__ import annotations

import json
import os
from typing import Any

KEPT = 100
"""Lines of each kind that are remembered."""


def directory(state_directory: str) -> str:
    """Return where the console keeps what is its own."""
    return os.path.join(state_directory, "console")


class History:
    """What one account typed after `/` and `:`, oldest first."""

    def __init__(self, state_directory: str) -> None:
        self._path = os.path.join(directory(state_directory), f"history-{os.getuid()}.json")
        self._lines: dict[str, list[str]] | None = None

    def lines(self, kind: str) -> list[str]:
        """Return what was typed after the sign `kind`."""
        if self._lines is None:
            self._lines = _lines_of(load(self._path))
        return self._lines.setdefault(kind, [])

    def add(self, kind: str, line: str) -> None:
        """Remember a line as the newest."""
        known = self.lines(kind)
        if not line.strip() or known[-1:] == [line]:
            return
        if line in known:
            known.remove(line)
        known.append(line)
        del known[:-KEPT]
        keep(self._path, self._lines)


def _lines_of(document: Any) -> dict[str, list[str]]:
    if not isinstance(document, dict):
        return {}
    return {
        str(kind): [line for line in lines if isinstance(line, str)]
        for kind, lines in document.items()
        if isinstance(lines, list)
    }


def load(path: str) -> Any:
    """Return what `keep` wrote, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def keep(path: str, document: Any) -> None:
    """Write a JSON-ready value for this account and its group."""
    from engine.repository import files

    try:
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        files.replace(path, json.dumps(document).encode())
    except OSError:
        return  # a console that may not write here works without
