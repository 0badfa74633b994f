"""One thing that a server needs, and whether it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["there", "missing", "unknown", "choice"]
"""`choice`: another way to the same end, needed by nobody who took the first."""
Language = Literal["sh", "sql", "text"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that a server needs."""

    name: str
    where: str
    """On which host, as whom, and into what the text goes."""
    text: str
    """Ready to paste."""
    language: Language
    state: State
    note: str = ""
    """Why the state is what it is, and what to know about it."""


def found(truth: bool | None) -> State:
    """Return the state of what is there, is not, or cannot be told.

    >>> found(True), found(False), found(None)
    ('there', 'missing', 'unknown')
    """
    return "unknown" if truth is None else "there" if truth else "missing"
