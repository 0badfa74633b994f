"""Gaps that an operator has accepted: they still bound what can be recovered, and alarm nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from engine.errors import CellarmanError, UsageError
from engine.postgres import segment
from engine.repository import files, locks
from engine.repository.layout import Layout

_BIGGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Accepted:
    """A range of segments that is known to be lost, both ends included, and why that is borne."""

    first: str
    last: str
    reason: str
    at: datetime
    by: str = ""

    @property
    def timeline(self) -> int:
        return int(self.first[:8], 16)

    def numbers(self, size: int) -> tuple[int, int] | None:
        """Return the first and last number with segments of `size` bytes; None when the names are of another size."""
        try:
            return segment.parse_segment(self.first, size)[1], segment.parse_segment(self.last, size)[1]
        except ValueError:
            return None


def parse_range(text: str) -> tuple[str, str]:
    """Return the names in FIRST..LAST, or in FIRST alone; raises UsageError.

    >>> parse_range("000000010000000000000006")
    ('000000010000000000000006', '000000010000000000000006')
    """
    first, dots, last = text.partition("..")
    last = last if dots else first
    for name in (first, last):
        if segment.kind_of(name) != segment.SEGMENT:
            raise UsageError(
                f"{name!r} is not the name of a WAL segment",
                "a gap is given as FIRST..LAST, both included",
                "--accept 000000010000000000000006..000000010000000000000009",
            )
    if first[:8] != last[:8] or first > last:
        raise UsageError(
            f"{text} is not a range of segments",
            "both must be of one timeline, and the first not after the last",
            f"--accept {min(first, last)}..{max(first, last)}",
        )
    return first, last


def path(layout: Layout) -> str:
    return os.path.join(layout.own, "accepted-gaps.json")


def read(layout: Layout) -> list[Accepted]:
    """Return the accepted gaps in the order of their acceptance.

    Raises CellarmanError when the file cannot be understood: a gap must not begin to alarm, or cease to, unnoticed.
    """
    try:
        with open(path(layout), encoding="utf-8", opener=files.at_once) as file:
            rows = json.loads(file.read(_BIGGEST))
        return [_parse(row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise CellarmanError(
            f"the accepted gaps cannot be read: {path(layout)}",
            str(error) or type(error).__name__,
            "correct the file, or remove it and accept the gaps again",
        ) from error


def _parse(row: dict[str, str]) -> Accepted:
    first, last = parse_range(f"{row['first']}..{row['last']}")
    at = datetime.fromisoformat(row["at"])
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone: {row['at']}")
    return Accepted(first, last, str(row["reason"]), at, str(row.get("by", "")))


def accept(layout: Layout, gap: Accepted) -> None:
    """Write down one more accepted gap, durably; the same range again takes the new reason."""
    _change(layout, gap.first, gap.last, gap)


def withdraw(layout: Layout, first: str, last: str) -> bool:
    """Take an acceptance back; tell whether there was one for exactly this range."""
    return _change(layout, first, last, None)


def _change(layout: Layout, first: str, last: str, new: Accepted | None) -> bool:
    os.makedirs(layout.own, mode=0o750, exist_ok=True)
    with locks.hold(f"{path(layout)}.lock", wait=10, what=f"change the accepted gaps of {layout.name}"):
        known = read(layout)
        kept = [gap for gap in known if (gap.first, gap.last) != (first, last)]
        _write(layout, [*kept, new] if new else kept)
        return len(kept) < len(known)


def _write(layout: Layout, gaps: Sequence[Accepted]) -> None:
    rows = [{**asdict(replace(gap)), "at": gap.at.isoformat()} for gap in gaps]
    try:
        files.replace(path(layout), (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise CellarmanError(f"the accepted gaps cannot be written: {path(layout)}", str(error)) from error
