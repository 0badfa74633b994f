"""The files of a block-level incremental backup: which blocks one holds, and what a chain of them makes.

Source: PostgreSQL 17's src/backend/backup/basebackup_incremental.c and basebackup.c (sendFile). A file INCREMENTAL.NAME
stands for NAME: magic, number of blocks, the length in blocks that the file never fell below since the backup before,
the blocks' numbers, all of them u32 in the server's byte order; then, at a block's border, the blocks.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import CellarmanError

PREFIX = "INCREMENTAL."
"""How the name of an increment begins."""
HEAD = struct.Struct("<III")
_MAGIC = 0xD3AE1F0D


class IncrementError(CellarmanError):
    """An increment that cannot be used."""


@dataclass(frozen=True, slots=True)
class Head:
    """What an increment says of itself."""

    count: int
    """Blocks in it."""
    uncut: int
    """Blocks that were never cut off since the backup before."""

    def begin(self, page: int) -> int:
        """Return where the first block lies, in bytes; `page` is a block's size."""
        length = HEAD.size + 4 * self.count
        return length if not self.count else -(-length // page) * page

    def size(self, page: int) -> int:
        """Return the whole increment's bytes."""
        return self.begin(page) + self.count * page


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring blocks that lie side by side in one layer."""

    layer: int | None
    """Which of the increments, newest first, or behind the last of them the whole file; None for zeros."""
    at: int
    """Bytes before them in the layer."""
    blocks: int


def read_head(data: bytes, size: int, page: int) -> Head:
    """Return the head of an increment of `size` bytes, from its first HEAD.size; raises IncrementError."""
    if len(data) < HEAD.size:
        raise IncrementError("an incremental file is damaged", "it ends within its header")
    magic, count, uncut = HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise IncrementError("an incremental file is damaged", f"it begins with {magic:08x}, not with {_MAGIC:08x}")
    head = Head(count, uncut)
    if head.size(page) != size:
        raise IncrementError(
            "an incremental file is damaged", f"it says that it holds {count} blocks, and has {size} bytes"
        )
    return head


def read_numbers(data: bytes, head: Head) -> array[int]:
    """Return the numbers of the blocks, in their order in the file, from the bytes behind its head."""
    numbers = array("I", data[: 4 * head.count])
    if struct.pack("=I", 1) != struct.pack("<I", 1):
        numbers.byteswap()
    return numbers


def blocks(head: Head, numbers: Sequence[int]) -> int:
    """Return how many blocks the file has that an increment stands for.

    >>> blocks(Head(2, 3), [1, 7]), blocks(Head(0, 3), [])
    (8, 3)
    """
    return max(head.uncut, max(numbers, default=-1) + 1)


def runs(increments: Sequence[tuple[Head, Sequence[int]]], whole: int, page: int) -> list[Run]:
    """Return where the blocks of a file lie, in order: the newest layer that has one decides.

    `increments` are newest first; `whole` is how many blocks the file below them has. What a layer cut off does not
    come back from an older one; what none has is zeros, as where a file grew without its blocks being written.

    >>> [(run.layer, run.at, run.blocks) for run in runs([(Head(2, 4), [1, 5])], 3, 8192)]
    [(1, 0, 1), (0, 8192, 1), (1, 16384, 1), (None, 0, 2), (0, 16384, 1)]
    >>> [(run.layer, run.blocks) for run in runs([(Head(0, 9), []), (Head(1, 2), [8])], 20, 8192)]
    [(2, 2), (None, 6), (1, 1)]
    """
    limit = blocks(*increments[0])
    places: list[tuple[int, int] | None] = [None] * limit
    for layer, (head, numbers) in enumerate(increments):
        begin = head.begin(page)
        for position, number in enumerate(numbers):
            if number < limit and places[number] is None:
                places[number] = (layer, begin + position * page)
        limit = min(limit, head.uncut)
    for number in range(min(limit, whole)):
        places[number] = places[number] or (len(increments), number * page)
    return _joined(places, page)


def _joined(places: Sequence[tuple[int, int] | None], page: int) -> list[Run]:
    found: list[Run] = []
    begun, count = None, 0
    for place in places:
        if count and place == _next(begun, count, page):
            count += 1
            continue
        if count:
            found.append(_run(begun, count))
        begun, count = place, 1
    return [*found, _run(begun, count)] if count else found


def _next(begun: tuple[int, int] | None, count: int, page: int) -> tuple[int, int] | None:
    return None if begun is None else (begun[0], begun[1] + count * page)


def _run(begun: tuple[int, int] | None, count: int) -> Run:
    return Run(None, 0, count) if begun is None else Run(*begun, count)
