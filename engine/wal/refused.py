"""What is kept in errors/, and whether it still matters: a good copy that is archived meanwhile settles a refusal."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace

from engine.postgres import segment
from engine.repository.layout import Layout
from engine.wal import condemned
from engine.wal.refusal import Alien, Conflict, Damaged

_NAME = re.compile(r"(.+)\.\d{8}T\d{6}Z\.(\w+)")
_REASON = ".reason.txt"
_TOLD = 10
"""Files whose reasons are read: this is looked at every few seconds."""
_HEAD = 2000
"""Characters of a reason that are read."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file in errors/ that nothing has settled."""

    path: str
    name: str
    """What it was to be called in the archive."""
    word: str
    """As in `engine.wal.refusal`; "" for a file of another make."""
    why: str = ""
    """What was written down as the reason, in one line; "" when nothing was, and for all but the first few."""

    @property
    def fix(self) -> str:
        """What to do about it."""
        away = f"rm {shlex.quote(self.path)}*"
        if self.word == Conflict.word:
            return f"see which of both the server wrote; when the archived one is right: {away}"
        if self.word == Alien.word:
            return f"see whose archive_command sends its WAL here, and end that; then: {away}"
        return f"when nobody misses it: {away}"


def unsettled(layout: Layout) -> list[Refused]:
    """Return what was refused and still matters, by name; nothing when errors/ is not there."""
    try:
        names = sorted(os.listdir(layout.errors))
    except OSError:
        return []
    found = [_refused(layout, name) for name in names if not name.endswith(".txt") and not name.startswith(".")]
    open_ = [each for each in found if not _settled(layout, each)]
    return [replace(each, why=_reason(each.path)) for each in open_[:_TOLD]] + open_[_TOLD:]


def _refused(layout: Layout, name: str) -> Refused:
    known = _NAME.fullmatch(name)
    own, word = (known[1], known[2]) if known else (name, "")
    return Refused(os.path.join(layout.errors, name), own, word)


def _reason(path: str) -> str:
    try:
        with open(path + _REASON, encoding="utf-8", errors="replace") as file:
            lines = file.read(_HEAD).splitlines()
    except OSError:
        return ""
    why = next((line.removeprefix("why: ") for line in lines if line.startswith("why: ")), "")
    return " ".join((why or (lines[0] if lines else "")).split())


def _settled(layout: Layout, refused: Refused) -> bool:
    """Tell whether the archive has it whole by now. Another content or another cluster's is not settled so."""
    if refused.word != Damaged.word or segment.kind_of(refused.name) == segment.FOREIGN:
        return False
    return os.path.exists(layout.wal(refused.name)) and not condemned.reason(layout, refused.name)
