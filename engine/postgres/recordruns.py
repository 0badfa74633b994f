"""The records of a WAL segment many at a time, by numpy: those that lie within one page, in a run from page to page.

Each page says how much of an earlier record it goes on with; so the records of all pages are found side by side, and
the checksums of all that are equally long are verified at once. What is out of the ordinary is left to the walk of
`walfile` and the check of `recordcheck`, which go from record to record and say what is wrong.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import google_crc32c

from engine.postgres import walfile, walrecord
from engine.postgres.walfile import Carry, SegmentFacts, SegmentHeader

_SHORT, _LONG = 24, 40  # SizeOfXLogShortPHD and SizeOfXLogLongPHD
_IS_LONG = 0x0002  # XLP_LONG_HEADER
_HEADER, _CHECKED = 24, 20  # SizeOfXLogRecord, and its part before xl_crc
_LARGEST = 64 << 20
"""Bytes of a segment beyond which what is noted of its records would take too much memory."""
_FARTHEST = 1 << 63
"""The address from which on numbers do not fit; no server gets that far."""
_FEW = 8
"""Records of one length up to which one by one is quicker."""
_LARGE = 512
"""Bytes of a record from which on it is."""
_AT_ONCE = 4096
"""Records whose bytes are put together at once."""
_BACK_TO_NOTHING = bytes.fromhex("6cd087d3")
"""Bytes that bring the CRC-32C of whatever ends with its own CRC-32C back to that of no bytes at all."""
_COMMIT, _ABORT = (walrecord.XACT << 8 | info for info in (walrecord.COMMIT, walrecord.ABORT))
_HEAD = [("length", "<u4"), ("xid", "<u4"), ("previous", "<u8"), ("kind", "<u2"), ("padding", "<u2"), ("crc", "<u4")]
_PLAIN_CONTENT = [("id", "u1"), ("length", "u1"), ("timestamp", "<i8")]

Array = Any
"""Of numpy, whose older versions do not say of what."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What is known of the records that lie within one page each, in a segment where they follow one another.

    Lists are by page; positions are offsets in the segment.
    """

    begins: list[int]
    """Where the page's run begins; -1 when no record begins in the page and ends there."""
    ends: list[int]
    """Behind the run's last record and its padding."""
    lasts: list[int]
    """Where the run's last record begins."""
    before: list[int]
    """The address of the record before the run, as its first record says."""
    wanted: dict[int, list[tuple[int, int]]]
    """Of pages, where the records begin that are to be decoded, and their lengths; plain ends are not among them."""
    plain: list[tuple[int, int, int, str, bool]]
    """Those commits and aborts without any extra, in `walrecord.Commit`'s order, that no others are earlier or later
    than, by place, time or xid."""
    more: tuple[int, int]
    """How many more commits and aborts without any extra there are."""
    _data: bytes
    _starts: Array
    _lengths: Array

    def are_right(self) -> bool:
        """Tell whether the checksums of all these records are right."""
        import numpy

        together = self._lengths < _LARGE
        order = numpy.argsort(self._lengths[together].astype("u2"), kind="stable")
        starts, lengths = self._starts[together][order], self._lengths[together][order]
        cuts = [0, *(numpy.flatnonzero(numpy.diff(lengths)) + 1).tolist(), len(lengths)]
        alone = [self._starts[~together]]
        for begin, end in itertools.pairwise(cuts):
            if end - begin <= _FEW:
                alone.append(starts[begin:end])
            elif not self._are_right(starts[begin:end], int(lengths[begin])):
                return False
        return all(map(self._is_right, numpy.concatenate(alone).tolist()))

    def _are_right(self, starts: Array, length: int) -> bool:
        """Verify records of one length: put together so that each one's checksum ends it, with what undoes it between
        them, the checksum of all is that of nothing; a wrong one among them leaves its trace."""
        import numpy

        parts = [("data", f"V{length - _HEADER}"), ("header", f"V{_HEADER}"), ("back", f"V{len(_BACK_TO_NOTHING)}")]
        line = numpy.empty(_AT_ONCE, parts)
        line["back"] = _BACK_TO_NOTHING
        for at in range(0, len(starts), _AT_ONCE):
            some = starts[at : at + _AT_ONCE]
            filled = line[: len(some)]
            filled["data"] = _bytes_at(self._data, some, _HEADER, length - _HEADER)
            filled["header"] = _bytes_at(self._data, some, 0, _HEADER)
            if google_crc32c.value(filled.tobytes()):
                return False
        return True

    def _is_right(self, start: int) -> bool:
        data = self._data
        length = int.from_bytes(data[start : start + 4], "little")
        found = google_crc32c.value(data[start + _HEADER : start + length])
        found = google_crc32c.extend(found, data[start : start + _CHECKED])
        return bool(found == int.from_bytes(data[start + _CHECKED : start + _HEADER], "little"))


def walk(data: bytes, header: SegmentHeader, carry: Carry | None = None) -> tuple[SegmentFacts, Runs | None]:
    """Return what `walfile.walk` does, and the runs of a segment that is whole and in order, to verify them."""
    runs = _find(data, header)
    facts = None if runs is None else walfile.walk_runs(data, header, carry, runs)
    return (walfile.walk(data, header, carry), None) if facts is None else (facts, runs)


def _find(data: bytes, header: SegmentHeader) -> Runs | None:
    """Return the runs of a segment, None when there are none or its records do not follow one another."""
    import numpy

    base = int(header.address)
    if len(data) != header.segment_size or len(data) > _LARGEST or base + len(data) > _FARTHEST:
        return None
    table = _starts(data, header)
    starts = table[table >= 0]
    if not len(starts):
        return None
    heads = _bytes_at(data, starts, 0, _HEADER).view(_HEAD)
    lengths, before = heads["length"].astype("i8"), heads["previous"]
    counts = (table >= 0).sum(axis=1)
    pages = numpy.flatnonzero(counts)
    lasts = numpy.cumsum(counts[pages]) - 1
    firsts = numpy.concatenate(([0], lasts[:-1] + 1))
    follows = before[1:] == (starts[:-1] + base).astype("u8")
    follows[firsts[1:] - 1] = True  # what ends the page before may lie between
    if not follows.all():
        return None

    def by_page(values: Array) -> list[int]:
        found = numpy.full(len(counts), -1)
        found[pages] = values
        return list(found.tolist())

    wanted = _wanted()[heads["kind"]]
    plain, ends, more = _plain_ends(data, starts, heads, base)
    wanted[plain] = False
    special: dict[int, list[tuple[int, int]]] = {}
    for start, length in zip(starts[wanted].tolist(), lengths[wanted].tolist(), strict=True):
        special.setdefault(start // header.block_size, []).append((start, length))
    return Runs(
        begins=by_page(starts[firsts]),
        ends=by_page(starts[lasts] + (lengths[lasts] + 7 & -8)),
        lasts=by_page(starts[lasts]),
        before=by_page(before[firsts]),
        wanted=special,
        plain=ends,
        more=more,
        _data=data,
        _starts=starts,
        _lengths=lengths,
    )


def _starts(data: bytes, header: SegmentHeader) -> Array:
    """Return where the records begin that lie within one page: a row for each page, -1 for none.

    A step takes the next record of every page at once.
    """
    import numpy

    block = header.block_size
    count = len(data) // block
    halves = numpy.frombuffer(data, "<u4").reshape(count, -1)
    words = halves.reshape(-1)
    is_long = (halves[:, 0] >> 16 & _IS_LONG).astype(bool)
    begin = numpy.arange(count) * block
    position: Array = begin + numpy.where(is_long, _LONG, _SHORT) + (halves[:, 4].astype("i8") + 7 & -8)
    room = begin + block - position
    columns = []
    while True:
        length = words.take(position >> 2, mode="clip")  # behind the last page there is nothing
        whole = (length >= _HEADER) & (length <= room)
        if not whole.any():
            break
        columns.append(numpy.where(whole, position, -1))
        taken = (length.astype("i8") + 7 & -8) * whole
        position, room = position + taken, room - taken
    return numpy.column_stack(columns) if columns else numpy.empty((count, 0), "i8")


def _plain_ends(
    data: bytes, starts: Array, heads: Array, base: int
) -> tuple[Array, list[tuple[int, int, int, str, bool]], tuple[int, int]]:
    """Return which records are commits and aborts without any extra; those of them that are the first or the last in
    any way; and how many commits and aborts there are beside these."""
    import numpy

    kinds = heads["kind"]
    ends = (kinds == _COMMIT) | (kinds == _ABORT)
    found = numpy.flatnonzero(ends & (heads["length"] == walfile.PLAIN_END))
    contents = _bytes_at(data, starts[found], _HEADER, walfile.PLAIN_END - _HEADER).view(_PLAIN_CONTENT)
    plain = contents["id"] == walrecord.SHORT_DATA
    found, stamps = found[plain], contents["timestamp"][plain]
    commits, xids = kinds[found] == _COMMIT, heads["xid"][found]
    rows = sorted(_outermost(commits, stamps, xids))
    columns = (starts[found][rows] + base, xids[rows], stamps[rows], commits[rows])
    named = [
        (lsn, xid, stamp, "commit" if commit else "abort", False)
        for lsn, xid, stamp, commit in zip(*(column.tolist() for column in columns), strict=True)
    ]
    left_out = numpy.delete(commits, rows)
    return found, named, (int(left_out.sum()), int((~left_out).sum()))


def _outermost(commits: Array, stamps: Array, xids: Array) -> set[int]:
    """Return the first and the last of the commits and of the aborts, and of all by time and by xid."""
    import numpy

    found: set[int] = set()
    for which in (numpy.flatnonzero(commits), numpy.flatnonzero(~commits)):
        found.update(which[[0, -1]].tolist() if len(which) else ())
    having = numpy.flatnonzero(xids)
    for values, among in ((stamps, numpy.arange(len(stamps))), (xids[having], having)):
        if len(values):
            found.update((int(among[values.argmin()]), int(among[values.argmax()])))
    return found


def _bytes_at(data: bytes, starts: Array, offset: int, count: int) -> Array:
    """Return the `count` bytes that lie `offset` behind each of `starts`, which are multiples of 8."""
    import numpy

    places = (len(data) - offset - count) // 8 + 1
    return numpy.ndarray((places,), f"V{count}", data, offset, (8,))[starts >> 3]


@functools.cache
def _wanted() -> Array:
    """Return whether recovery cares about a record, by its kind: xl_info, and xl_rmid above it."""
    import numpy

    return numpy.array([walrecord.is_wanted(kind >> 8, kind & 0xFF) for kind in range(1 << 16)])
