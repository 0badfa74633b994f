"""A Reporter that tells on standard error, for work done in the command's own process."""

from __future__ import annotations

import sys
from datetime import datetime

from engine.cli import output
from engine.event import Level, Silent


class Lines(Silent):
    """Prints notes and phases, a line each with the time; progress is not shown."""

    def backup(self, backup_id: str) -> None:
        self._say(f"backup {backup_id}")

    def phase(self, name: str, detail: str = "") -> None:
        self._say(f"{name}: {detail}" if detail else name)

    def note(self, text: str, level: Level = "info") -> None:
        self._say(text if level == "info" else f"{level}: {text}")

    def _say(self, text: str) -> None:
        print(f"{datetime.now().astimezone():%H:%M:%S} {output.one_line(text)}", file=sys.stderr, flush=True)
