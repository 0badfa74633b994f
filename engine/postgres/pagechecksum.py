"""Data page checksums, many pages at a time.

Source: PostgreSQL's src/include/storage/checksum_impl.h (a variant of FNV-1a in 32 lanes) and bufpage.h. numpy does the
arithmetic: a page takes 2,112 steps, which no loop of Python's own does at the speed of a disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_LANES = 32
_PRIME = 16777619
_BASES = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)  # fmt: skip
_AT_ONCE = 256
"""Pages: with fewer numpy is busy with itself, with more their lanes leave the nearer caches."""
_RELATION = re.compile(
    rb"(?:base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/(?P<node>\d+)(?:_(?:fsm|vm|init))?(?:\.(?P<segment>\d+))?"
)


def segment_of(path: bytes) -> int | None:
    """Return which segment of a relation's fork a file is, None for what has no pages; the path is a manifest's.

    >>> segment_of(b"base/5/16384"), segment_of(b"base/5/16384_vm.2"), segment_of(b"base/5/pg_filenode.map")
    (0, 2, None)
    """
    found = _RELATION.fullmatch(path)
    return None if found is None else int(found["segment"] or 0)


class PageCheck:
    """Checks the pages that it is given, those of many small files together.

    Left out are pages that were never written, and those with an LSN from `before` on: the WAL holds them whole, and
    they may have been written while they were read.
    """

    def __init__(self, before: int, bad: Callable[[bytes, int], None], page: int = 8192) -> None:
        """`bad` is called with the file and the number of the block in its fork, of each page that is not right."""
        self._before = before
        self._bad = bad
        self.page = page
        self._blocks: list[tuple[bytes, bytes, int]] = []
        self._waiting = 0
        self.checked = 0
        """Pages."""

    def add(self, path: bytes, block: bytes, first: int) -> None:
        """Take a file's whole pages, the first of which is block `first` of its fork; what is over is passed over."""
        for at in range(0, len(block) // self.page * self.page, _AT_ONCE * self.page):
            part = block[at : at + _AT_ONCE * self.page]
            part = part[: len(part) // self.page * self.page]
            self._blocks.append((path, part, first + at // self.page))
            self._waiting += len(part) // self.page
            if self._waiting >= _AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Check what waits."""
        import numpy

        blocks, self._blocks, self._waiting = self._blocks, [], 0
        if not blocks:
            return
        data = b"".join(part for _, part, _ in blocks) if len(blocks) > 1 else blocks[0][1]
        counts = [len(part) // self.page for _, part, _ in blocks]
        firsts = [first for _, _, first in blocks]
        numbers = numpy.concatenate(
            [numpy.arange(first, first + count, dtype="u4") for first, count in zip(firsts, counts, strict=True)]
        )
        self.checked += len(numbers)
        ends = numpy.cumsum(counts)
        for at in bad_pages(data, numbers, self._before, self.page):
            self._bad(blocks[int(numpy.searchsorted(ends, at, "right"))][0], int(numbers[at]))


def bad_pages(data: bytes, numbers: Any, before: int, page: int = 8192) -> list[int]:
    """Return which of the pages in `data`, counted from 0, have a checksum that does not match (see PageCheck).

    `numbers` is an array of their block numbers.
    """
    import numpy

    words = numpy.frombuffer(data, "<u4").reshape(-1, page // 4 // _LANES, _LANES)
    lsn = (words[:, 0, 0].astype("u8") << numpy.uint64(32)) | words[:, 0, 1]
    wanted = ((words[:, 0, 3] >> numpy.uint32(16)) != 0) & (lsn < numpy.uint64(before))
    if not wanted.any():
        return []
    stated = words[:, 0, 2] & numpy.uint32(0xFFFF)
    found = (_sums(words) ^ numbers) % numpy.uint32(65535) + numpy.uint32(1)
    return [int(at) for at in numpy.flatnonzero(wanted & (found != stated))]


def _sums(pages: Any) -> Any:
    """Return the checksums before the block's number is mixed in; the stated one is taken for zero."""
    import numpy

    first = pages[:, 0].copy()
    first[:, 2] &= numpy.uint32(0xFFFF0000)
    sums = numpy.tile(numpy.array(_BASES, "u4"), (len(pages), 1))
    high = numpy.empty_like(sums)
    prime, shift, nothing = numpy.uint32(_PRIME), numpy.uint32(17), numpy.uint32(0)
    for row in (first, *(pages[:, number] for number in range(1, pages.shape[1])), nothing, nothing):
        numpy.bitwise_xor(sums, row, out=sums)
        numpy.right_shift(sums, shift, out=high)
        numpy.multiply(sums, prime, out=sums)
        numpy.bitwise_xor(sums, high, out=sums)
    return numpy.bitwise_xor.reduce(sums, axis=1)
