"""Which action needs which confirmation, and what read-only and protected forbid. Every caller asks here."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from engine.errors import Refused


class Level(IntEnum):
    """How much an action must be confirmed."""

    READS = 0
    STARTS = 1
    """Starts work that can be cancelled: a form and one key."""
    CHANGES = 2
    """Changes something kept, but reversibly: yes or no."""
    REMOVES = 3
    """Removes a backup or replaces a directory: the name must be typed."""


Action = Literal[
    "look",
    "backup",
    "verify",
    "restore",
    "keep",
    "cancel",
    "delete",
    "replace",
    "ingest",
    "check",
    "label",
    "accept",
    "switch",
    "restore-point",
    "fetch",
    "aftermath",
]

LEVELS: dict[Action, Level] = {
    "look": Level.READS,
    "backup": Level.STARTS,
    "verify": Level.STARTS,
    "restore": Level.STARTS,
    "ingest": Level.STARTS,
    "aftermath": Level.STARTS,
    "keep": Level.CHANGES,
    "cancel": Level.CHANGES,
    "delete": Level.REMOVES,
    "replace": Level.REMOVES,
    "check": Level.READS,
    "label": Level.CHANGES,
    "accept": Level.CHANGES,
    "switch": Level.STARTS,
    "restore-point": Level.STARTS,
    "fetch": Level.STARTS,
}


def refusal(action: Action, server: str, *, read_only: bool = False, protected: bool = False) -> Refused | None:
    """Return why `action` on `server` is not allowed, or None.

    >>> refusal("look", "main", read_only=True) is None
    True
    >>> refusal("delete", "main", protected=True).why
    'protected = true is set for it: nothing destructive, whoever asks'
    """
    level = LEVELS[action]
    if read_only and level > Level.READS:
        return Refused(
            f"{action} of {server} is not done: read-only",
            "this console or command was started with --read-only",
            "start it again without --read-only",
        )
    if protected and level >= Level.REMOVES:
        return Refused(
            f"{action} of {server} is not done: the server is protected",
            "protected = true is set for it: nothing destructive, whoever asks",
            f"set protected = false under [servers.{server}] first",
        )
    return None


def require(action: Action, server: str, *, read_only: bool = False, protected: bool = False) -> None:
    """Raise Refused when `action` on `server` is not allowed."""
    refused = refusal(action, server, read_only=read_only, protected=protected)
    if refused is not None:
        raise refused
