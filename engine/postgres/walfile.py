"""What is inside a WAL segment: its header, its commits, and where its valid data ends.

Sources: PostgreSQL's src/include/access/{xlog_internal,xlogrecord}.h and src/backend/access/transam/xlogreader.c.
Numbers are little-endian, records 8-aligned. A record may cross pages, and segments: what is cut off at a segment's
end is carried into the next one's walk. Light: the WAL client loads it.
"""

from __future__ import annotations

import struct
from collections import namedtuple

from engine.errors import CellarmanError
from engine.postgres import segment, walrecord
from engine.postgres.lsn import Lsn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.postgres.recordruns import Runs

PAGE = 8192
"""Bytes of a WAL page as PostgreSQL is built unless told otherwise; a segment's header says its own."""
HEADER_SIZE = 40

_SHORT_HEADER = 24
_LONG_HEADER = 0x2
_CONTRECORD = 0x1
_MAJORS = {
    0xD093: 9,
    0xD097: 10,
    0xD098: 11,
    0xD101: 12,
    0xD106: 13,
    0xD10D: 14,
    0xD110: 15,
    0xD113: 16,
    0xD116: 17,
    0xD118: 18,
    0xD121: 19,
}
_FIRST_MAGIC_OF_19 = 0xD119

PLAIN_END = 34
"""Bytes of a commit or abort without any extra: header, main data's length, timestamp."""

_FARTHEST = (1 << 63) - 1
"""Bytes of WAL beyond which numbers do not fit anywhere; no server writes as many."""

_LONGEST_RECORD = 1 << 30
"""PostgreSQL refuses longer ones (XLogRecordMaxSize, MaxAllocSize)."""

_PAGE_HEADER = struct.Struct("<HHIQI")
_LENGTH = struct.Struct("<I")
_LINKED = struct.Struct("<I4xQxB")  # length, previous record, manager
_PREVIOUS = struct.Struct("<8xQ")
_XACT_END = struct.Struct("<4xIQB7xBxq")  # xid, previous record, info, id of the data header, timestamp
_PLAIN_KINDS = {walrecord.COMMIT: "commit", walrecord.ABORT: "abort"}


class WalFormatError(CellarmanError):
    """Bytes that are not a WAL segment; `why` gives the reason."""


class SegmentHeader(
    namedtuple(
        "SegmentHeader",
        ("magic", "info", "timeline", "address", "rem_len", "system_id", "segment_size", "block_size"),
    )
):
    """The long header at a segment's start; `timeline` is the first page's and may be an ancestor of the file's."""

    __slots__ = ()
    magic: int
    info: int
    timeline: int
    address: Lsn
    rem_len: int
    """Bytes that the first page continues of a record begun in the segment before."""
    system_id: int
    segment_size: int
    block_size: int


def read_header(data: bytes) -> SegmentHeader:
    """Return the header in a segment's first 40 bytes; raises WalFormatError with the reason."""
    if len(data) < HEADER_SIZE:
        raise _not_wal(f"it is too short: {len(data)} bytes")
    magic, info, timeline, address, rem_len, system_id, size, block = struct.unpack_from("<HHIQI4xQII", data)
    if magic >> 12 != 0xD:
        raise _not_wal(f"invalid magic number {magic:04X}")
    if not info & _LONG_HEADER:
        raise _not_wal("its first page has no long header")
    if not segment.valid_segment_size(size):
        raise _not_wal(f"its header states segments of {size} bytes")
    if not 1024 <= block <= 65536 or block & (block - 1):
        raise _not_wal(f"its header states pages of {block} bytes")
    return SegmentHeader(magic, info, timeline, Lsn(address), rem_len, system_id, size, block)


def _not_wal(reason: str) -> WalFormatError:
    return WalFormatError("not a WAL segment", reason)


def major_of(magic: int) -> int | None:
    """Return the PostgreSQL major version that writes pages with this magic number, None when it is not known.

    >>> major_of(0xD110), major_of(0xD0FF)
    (15, None)
    """
    return _MAJORS.get(magic)


def magic_of(major: int | None) -> int | None:
    """Return the magic number of a PostgreSQL major version's pages, None when it is not known.

    >>> f"{magic_of(15):X}", magic_of(99)
    ('D110', None)
    """
    return next((magic for magic, known in _MAJORS.items() if known == major), None)


def check_segment(name: str, header: SegmentHeader, *, system_id: int | None, size: int) -> str | None:
    """Return None when the header fits the file's name, its plain size in bytes and the server; else why not.

    The text begins with one of the words `alien`, `wrong size`, `misplaced`, `wrong timeline` and a colon. `name` may
    be a segment's or a .partial's.
    """
    if system_id is not None and header.system_id != system_id:
        return f"alien: it belongs to the system {header.system_id}, this server is {system_id}"
    if size != header.segment_size:
        return f"wrong size: {size} bytes instead of {header.segment_size}"
    if header.address + size > _FARTHEST:
        return f"misplaced: no server's WAL reaches address {header.address}"
    try:
        timeline, number = segment.parse_segment(name, header.segment_size)
    except ValueError as error:
        return f"misplaced: {error}"
    if header.address != number * header.segment_size:
        inside = segment.segment_name(header.timeline, header.address // header.segment_size, header.segment_size)
        return f"misplaced: it holds the WAL of {inside} (address {header.address})"
    if not 1 <= header.timeline <= timeline:
        return f"wrong timeline: its first page is of timeline {header.timeline}, its name says {timeline}"
    return None


class Carry(namedtuple("Carry", ("lsn", "length", "missing", "data"))):
    """A record that the segment's end cuts: to be handed to the next segment's walk."""

    __slots__ = ()
    lsn: Lsn
    length: int
    missing: int
    """Bytes of it that the next segment holds."""
    data: bytes | None
    """The bytes so far; None when recovery does not care about the record."""


class SegmentFacts(
    namedtuple(
        "SegmentFacts",
        (
            "first_commit",
            "last_commit",
            "min_commit",
            "max_commit",
            "n_commits",
            "n_aborts",
            "last_commit_lsn",
            "last_commit_xid",
            "min_xid",
            "max_xid",
            "last_record_lsn",
            "end_lsn",
            "ended_by",
            "restore_points",
            "checkpoints",
            "backup_ends",
            "end_of_recovery",
            "minimal",
            "tablespaces",
            "drops",
            "last_timeline",
            "carry",
        ),
    )
):
    """What a segment's records tell recovery. Times are microseconds since 2000-01-01 UTC, None when there is none.

    A record belongs to the segment where it ends. PostgreSQL's time target stops at aborts as at commits, so
    `min_commit` and `max_commit` count both; the other commit fields count commits only.
    """

    __slots__ = ()
    first_commit: int | None
    last_commit: int | None
    min_commit: int | None
    max_commit: int | None
    n_commits: int
    n_aborts: int
    last_commit_lsn: Lsn | None
    last_commit_xid: int | None
    min_xid: int | None
    max_xid: int | None
    last_record_lsn: Lsn | None
    """Where the last record that is whole begins."""
    end_lsn: Lsn
    """Where valid data ends."""
    ended_by: str
    """`end`, `switch`, `zeros`, or what is wrong with what follows `end_lsn`."""
    restore_points: tuple[walrecord.RestorePoint, ...]
    checkpoints: tuple[walrecord.Checkpoint, ...]
    backup_ends: tuple[walrecord.BackupEnd, ...]
    end_of_recovery: tuple[walrecord.EndOfRecovery, ...]
    minimal: tuple[walrecord.Minimal, ...]
    tablespaces: tuple[walrecord.TablespaceMade, ...]
    drops: tuple[walrecord.Commit, ...]
    """Commits that removed files."""
    last_timeline: int
    """Of the last page with valid data."""
    carry: Carry | None

    @property
    def switched(self) -> bool:
        """Whether the segment was ended early, on purpose."""
        return self.ended_by == "switch"

    @property
    def complete(self) -> bool:
        """Whether replay can go on in the next segment."""
        return self.ended_by in ("end", "switch")


def walk(data: bytes, header: SegmentHeader, carry: Carry | None = None) -> SegmentFacts:
    """Walk every record of a whole segment; `carry` is what the walk of the segment before left over.

    Without it the record that the segment's start continues is skipped. The walk ends where PostgreSQL's own reader
    would for want of a valid page or record; checksums of records are not verified.
    """
    return _facts(_walked(data, header, carry))


def walk_runs(data: bytes, header: SegmentHeader, carry: Carry | None, runs: Runs) -> SegmentFacts | None:
    """Walk as `walk` does, and pass over `runs`; None when the segment is not in order behind them to its end."""
    walker = _Walk(data, header, carry, runs)
    try:
        for page in range(0, len(data), header.block_size):
            walker.page(page)
    except _OutOfOrder:
        return None
    walker.ends = sorted([*walker.ends, *runs.plain])
    return _facts(walker, runs.more)


class _OutOfOrder(Exception):
    """The walk does not come to where a run begins, or comes to an end."""


def commits(data: bytes, header: SegmentHeader, carry: Carry | None = None) -> Iterator[walrecord.Commit]:
    """Yield the ends of transactions in a segment, commits and aborts, in the order of the WAL."""
    return map(walrecord.Commit._make, _walked(data, header, carry).ends)


def first_record(data: bytes, header: SegmentHeader, lsn: int) -> Lsn | None:
    """Return where the first record begins that begins at or after `lsn` in a segment, None when none does."""
    base, block = int(header.address), header.block_size
    for page in range(max(0, lsn - base) // block * block, len(data) - block + 1, block):
        magic, info, _, address, rest = _PAGE_HEADER.unpack_from(data, page)
        if magic != header.magic or address != base + page:
            return None
        position = page + (HEADER_SIZE if info & _LONG_HEADER else _SHORT_HEADER) + (rest + 7 & -8)
        while position < page + block:
            (length,) = _LENGTH.unpack_from(data, position)
            if length < walrecord.HEADER:
                return None
            if base + position >= lsn:
                return Lsn(base + position)
            position += length + 7 & -8
    return None


def _walked(data: bytes, header: SegmentHeader, carry: Carry | None) -> _Walk:
    walker = _Walk(data, header, carry)
    for page in range(0, len(data) - header.block_size + 1, header.block_size):
        walker.page(page)
        if walker.ended_by:
            return walker
    if len(data) < header.segment_size:
        walker.stop(len(data), "the file is cut short")
    return walker


class _Walk:
    """The state of a walk; positions are offsets in the segment, negative in the one before."""

    __slots__ = (
        "base",
        "block",
        "data",
        "end",
        "ended_by",
        "ends",
        "landmarks",
        "last",
        "last_timeline",
        "length",
        "magic",
        "missing",
        "parts",
        "runs",
        "start",
    )

    def __init__(self, data: bytes, header: SegmentHeader, carry: Carry | None, runs: Runs | None = None) -> None:
        self.data = data
        self.runs = runs
        self.base = int(header.address)
        self.block = header.block_size
        self.magic = header.magic
        self.last_timeline = header.timeline
        self.ends: list[tuple[int, int, int, str, bool]] = []
        self.landmarks: list[walrecord.Landmark] = []
        self.last: int | None = None
        self.end = len(data)
        self.ended_by = ""
        # The record at `start`, of `length` (0: begun in an unknown place), lacks `missing` bytes that the next page
        # continues; `parts` are the bytes so far, None when nobody will ask for them.
        self.start = self.length = self.missing = 0
        self.parts: list[bytes] | None = None
        if carry and carry.missing == header.rem_len and carry.lsn < self.base < carry.lsn + carry.length:
            self.start, self.length, self.missing = carry.lsn - self.base, carry.length, carry.missing
            self.parts = None if carry.data is None else [carry.data]

    def stop(self, position: int, reason: str) -> None:
        """End the walk: valid data reaches to `position`, or to the record that was cut before it."""
        if self.runs is not None:
            raise _OutOfOrder
        self.end = self.start if self.missing and self.length else position
        self.last = self.last_whole()
        self.ended_by = reason
        self.missing, self.parts = 0, None

    def last_whole(self) -> int | None:
        """Return where the last record begins that is whole: the one before a record that is cut."""
        if not (self.missing and self.length) or self.last != self.start:
            return self.last
        (previous,) = _PREVIOUS.unpack_from(self.data, self.start)
        continues = any(self.data[16:20])  # a record that began in the segment before may end in this one
        return int(previous) - self.base if previous >= self.base or continues else None

    def page(self, page: int) -> None:
        """Take in one page: its header, the record that it continues, the records that begin in it."""
        magic, info, timeline, address, rest = _PAGE_HEADER.unpack_from(self.data, page)
        if magic != self.magic or address != self.base + page:
            self.stop(page, _wrong_page(magic, address, self.base + page))
            return
        position = page + (HEADER_SIZE if info & _LONG_HEADER else _SHORT_HEADER)
        page_end = page + self.block
        if self.missing and info & (0x8 if self.magic < _FIRST_MAGIC_OF_19 else 0x4):
            # The server crashed while it wrote the record, and began anew here.
            self.missing, self.parts, self.last = 0, None, None
        elif rest or self.missing:
            if page and (rest != self.missing or not info & _CONTRECORD):
                self.stop(page, f"a page continues {rest} bytes of a record that needs {self.missing}")
                return
            position = self._continue(position, page_end, rest)
        self.last_timeline = timeline
        if position < page_end and not self.ended_by:
            if self.runs is not None:
                position = self._run(self.runs, page // self.block, position)
            self._records(position, page_end)

    def _run(self, runs: Runs, page: int, position: int) -> int:
        """Pass over a page's run; returns where the next record begins. Raises _OutOfOrder when it is not one."""
        begin = runs.begins[page]
        if begin < 0:
            return position
        if begin != position or (self.last is not None and runs.before[page] != self.base + self.last):
            raise _OutOfOrder
        for start, length in runs.wanted.get(page, ()):
            self._take(self.data[start : start + length], start, start + (length + 7 & -8))
        self.last = runs.lasts[page]
        return runs.ends[page]

    def _continue(self, position: int, page_end: int, rest: int) -> int:
        """Take the page's part of the record that an earlier page began; returns where the next record begins."""
        if not self.missing:
            self.length, self.missing, self.parts = 0, rest, None
        part = min(rest, page_end - position)
        self.missing -= part
        if self.parts is not None:
            self.parts.append(self.data[position : position + part])
            if self.missing and len(self.parts) == 2:
                head = b"".join(self.parts)
                if not walrecord.is_wanted(head[17], head[16]):
                    self.parts = None
        position += part + 7 & -8
        if not self.missing:
            if self.parts is not None:
                self._take(b"".join(self.parts), self.start, position)
                self.parts = None
            if self.length:
                self.last = self.start
        return position

    def _records(self, position: int, page_end: int) -> None:
        """Go from record to record until the page ends: the loop that the speed of it all hangs on."""
        data, base, last, append = self.data, self.base, self.last, self.ends.append
        unpack, unpack_end, kinds = _LINKED.unpack_from, _XACT_END.unpack_from, _PLAIN_KINDS
        xact, last_manager = walrecord.XACT, walrecord.TABLESPACE
        length = 0
        last_whole_header = page_end - walrecord.HEADER
        while position <= last_whole_header:
            length, previous, manager = unpack(data, position)
            if manager <= last_manager or (last is not None and previous != base + last):
                plain = False
                if length == PLAIN_END and manager == xact and position + PLAIN_END <= page_end:
                    xid, previous, info, block, stamp = unpack_end(data, position)
                    if block == 255 and info in kinds and (last is None or previous == base + last):
                        append((base + position, xid, stamp, kinds[info], False))
                        plain = True
                if not plain and not self._special(position, length, page_end, last):
                    return
            last = position
            position += length + 7 & -8 or page_end
        self.last = last
        if position < page_end:
            (length,) = _LENGTH.unpack_from(data, position)
            self._begin(position, length, page_end, [data[position:page_end]])
        elif position > page_end:
            assert last is not None
            self._begin(last, length, page_end, None)

    def _special(self, position: int, length: int, page_end: int, last: int | None) -> bool:
        """Take a record that recovery may care about; False when the page's walk is over."""
        self.last = last
        if length < walrecord.HEADER:
            self._begin(position, length, page_end, None)
            return False
        (previous,) = _PREVIOUS.unpack_from(self.data, position)
        if last is not None and previous != self.base + last:
            self.stop(position, "a record that does not follow the one before it")
            return False
        info, manager = self.data[position + 16], self.data[position + 17]
        wanted = walrecord.is_wanted(manager, info)
        if position + length > page_end:
            self._begin(position, length, page_end, [self.data[position:page_end]] if wanted else None)
            return False
        if wanted:
            self._take(self.data[position : position + length], position, position + (length + 7 & -8))
        return not self.ended_by

    def _begin(self, position: int, length: int, page_end: int, parts: list[bytes] | None) -> None:
        """Note a record that the page cuts; one whose length cannot be ends the walk."""
        if not walrecord.HEADER <= length <= _LONGEST_RECORD:
            self.stop(position, f"a record of {length} bytes" if length else "zeros")
            return
        self.start, self.length, self.missing, self.parts = position, length, position + length - page_end, parts

    def _take(self, record: bytes, position: int, after: int) -> None:
        """Keep what a whole record says."""
        said = walrecord.decode(record, self.base + position, self.magic)
        if isinstance(said, walrecord.Commit):
            self.ends.append(said)
        elif isinstance(said, walrecord.Switch):
            self.last = position
            self.stop(after, "switch")
        elif said is not None:
            self.landmarks.append(said)

    def carry(self) -> Carry | None:
        if self.ended_by or not self.missing or not self.length:
            return None
        data = None if self.parts is None else b"".join(self.parts)
        return Carry(Lsn(self.base + self.start), self.length, self.missing, data)


def _wrong_page(magic: int, address: int, expected: int) -> str:
    if not magic and not address:
        return "zeros"
    if magic >> 12 != 0xD:
        return f"invalid magic number {magic:04X}"
    return f"unexpected page address {Lsn(address)} instead of {Lsn(expected)}"


def _facts(walker: _Walk, more: tuple[int, int] = (0, 0)) -> SegmentFacts:
    """Return what a walk found; `more` commits and aborts are to be counted beside its ends."""
    ends = walker.ends
    done = [end for end in ends if end[3] in ("commit", "commit_prepared")]
    stamps = [end[2] for end in ends]
    xids = [end[1] for end in ends if end[1]]
    last = walker.last_whole()
    by_kind: dict[type, list[walrecord.Landmark]] = {}
    for landmark in walker.landmarks:
        by_kind.setdefault(type(landmark), []).append(landmark)
    return SegmentFacts(
        first_commit=done[0][2] if done else None,
        last_commit=done[-1][2] if done else None,
        min_commit=min(stamps, default=None),
        max_commit=max(stamps, default=None),
        n_commits=len(done) + more[0],
        n_aborts=len(ends) - len(done) + more[1],
        last_commit_lsn=Lsn(done[-1][0]) if done else None,
        last_commit_xid=done[-1][1] if done else None,
        min_xid=min(xids, default=None),
        max_xid=max(xids, default=None),
        last_record_lsn=None if last is None else Lsn(walker.base + last),
        end_lsn=Lsn(walker.base + walker.end),
        ended_by=walker.ended_by or "end",
        restore_points=tuple(by_kind.get(walrecord.RestorePoint, ())),
        checkpoints=tuple(by_kind.get(walrecord.Checkpoint, ())),
        backup_ends=tuple(by_kind.get(walrecord.BackupEnd, ())),
        end_of_recovery=tuple(by_kind.get(walrecord.EndOfRecovery, ())),
        minimal=tuple(by_kind.get(walrecord.Minimal, ())),
        tablespaces=tuple(by_kind.get(walrecord.TablespaceMade, ())),
        drops=tuple(walrecord.Commit._make(end) for end in done if end[4]),
        last_timeline=walker.last_timeline,
        carry=walker.carry(),
    )
