"""Data page checksums, many pages at a time.

Source: PostgreSQL's src/include/storage/checksum_impl.h (a variant of FNV-1a in 32 lanes) and bufpage.h. numpy does the
arithmetic: a page takes 2,112 steps, which no loop of Python's own does at the speed of a disk.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

_LANES = 32
_PRIME = 16777619
_BASES = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)  # fmt: skip
_AT_ONCE = 64
"""Pages whose lanes fit into a processor's first cache."""
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


def bad_pages(block: bytes, first: int, before: int, page: int = 8192) -> list[int]:
    """Return the numbers of the pages in `block` whose checksum does not match; the first has the number `first`.

    Left out are pages that were never written, and those with an LSN from `before` on: the WAL holds them whole, and
    they may have been written while they were read.
    """
    import numpy

    words = numpy.frombuffer(block, "<u4").reshape(len(block) // page, page // 4 // _LANES, _LANES)
    lsn = (words[:, 0, 0].astype("u8") << 32) | words[:, 0, 1]
    wanted = ((words[:, 0, 3] >> 16) != 0) & (lsn < before)
    numbers = numpy.flatnonzero(wanted)
    bad: list[int] = []
    for at in range(0, len(numbers), _AT_ONCE):
        some = numbers[at : at + _AT_ONCE]
        straight = len(some) and some[-1] - some[0] + 1 == len(some)
        pages = words[some[0] : some[-1] + 1] if straight else words[some]
        stated = pages[:, 0, 2] & 0xFFFF
        found = _sums(pages) ^ (some + first).astype("u4")
        bad += [int(number) + first for number in some[(found % 65535 + 1) != stated]]
    return bad


def _sums(pages: Any) -> numpy.ndarray[Any, Any]:
    """Return the checksums before the block's number is mixed in; the stated one is taken for zero."""
    import numpy

    head = pages[:, 0, :].copy()
    head[:, 2] &= 0xFFFF0000
    sums = numpy.tile(numpy.array(_BASES, "u4"), (len(pages), 1))
    high = numpy.empty_like(sums)
    nothing = numpy.uint32(0)
    prime, shift = numpy.uint32(_PRIME), numpy.uint32(17)
    rounds = [head, *(pages[:, row, :] for row in range(1, pages.shape[1])), nothing, nothing]
    for data in rounds:
        numpy.bitwise_xor(sums, data, out=sums)
        numpy.right_shift(sums, shift, out=high)
        numpy.multiply(sums, prime, out=sums)
        numpy.bitwise_xor(sums, high, out=sums)
    return numpy.asarray(numpy.bitwise_xor.reduce(sums, axis=1))
