"""The whole content of one segment put to every test that the segment itself, and the one before it, allow.

Every page's header and every record's checksum are looked at, and whether the segment goes on where the one before it
ended: bytes that the last record there lacks, its checksum over both, and the back link of the first record here.
Light: the WAL client loads this.
"""

from __future__ import annotations

import struct
from collections import namedtuple

import google_crc32c

from engine.postgres import segment, walfile
from engine.postgres.lsn import Lsn
from engine.postgres.recordcheck import NOTHING, RecordCheck, Tail, overwrites
from engine.postgres.timeline import Lineage, history_of
from engine.postgres.walfile import WalFormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.postgres.recordruns import Runs
    from engine.postgres.timeline import Switch
    from engine.postgres.walfile import SegmentFacts, SegmentHeader

    Histories = Mapping[int, tuple[Switch, ...]]
    Walk = Callable[[bytes, SegmentHeader], tuple[SegmentFacts, Runs | None]]

CONTINUES = "it does not continue"
"""In the reason against a segment that does not go on where the one before it ended."""
_SHORT, _LONG = 24, 40  # SizeOfXLogShortPHD and SizeOfXLogLongPHD
_RECORD = 24  # SizeOfXLogRecord
_LINK = 16
"""Bytes of a record's header up to the end of xl_prev."""
_END = struct.Struct("<QQII")


class Ending(namedtuple("Ending", ("system", "last", "tail"))):
    """How a segment ends: what the next one must go on with."""

    __slots__ = ()
    system: int
    last: int
    """Where the last record that begins in it, or before it, begins; 0 when that is not known."""
    tail: Tail

    def packed(self) -> bytes:
        return _END.pack(self.system, self.last, self.tail.left, self.tail.crc) + self.tail.head

    @classmethod
    def unpacked(cls, data: bytes) -> Ending:
        system, last, left, crc = _END.unpack_from(data)
        return cls(system, last, Tail(left, crc, data[_END.size :]))


class Content(
    namedtuple("Content", ("problem", "header", "ending", "short", "blemish"), defaults=(None, None, None, None))
):
    """What a segment's content is."""

    __slots__ = ()
    problem: str | None
    """Why it satisfies nothing; begins with `alien:`, `misplaced:`, `wrong size:`, `wrong timeline:`, `corrupt:`."""
    header: SegmentHeader | None
    """None when it is not this segment's."""
    ending: Ending | None
    """None when replay cannot go on behind it."""
    short: str | None
    """Why its valid data ends before it does, which is no problem while nothing follows."""
    blemish: str | None
    """What is damaged where replay never looks: behind the switch that ends it."""


def one_by_one(data: bytes, header: SegmentHeader) -> tuple[SegmentFacts, None]:
    """Walk a segment as `walfile.walk` does: quick to begin, and for what is read only now and then."""
    return walfile.walk(data, header), None


def check(
    name: str,
    data: bytes,
    *,
    systems: Sequence[int],
    histories: Histories,
    before: tuple[str, Ending] | None = None,
    walk: Walk = one_by_one,
    magic: int | None = None,
) -> Content:
    """Judge the plain content of segment `name`.

    `systems` are those whose WAL may be in the archive, its own first; none is any. `before` are the name and the
    ending of the segment before it; one of another system is none. `walk` walks it, as `recordruns.walk` does, or has
    done so. `magic` is the magic number that the pages of the first of `systems` have, None when that is not known.
    """
    try:
        header = walfile.read_header(data)
    except WalFormatError as error:
        return Content(_no_header(data, error.why))
    system_id = systems[0] if systems and header.system_id not in systems else None
    problem = walfile.check_segment(name, header, system_id=system_id, size=len(data))
    if magic is not None and header.magic != magic and systems and header.system_id == systems[0]:
        problem = problem or f"corrupt: its first page has the magic number {header.magic:04X} instead of {magic:04X}"
    problem = problem or _wrong_branch(name, header, histories)
    if problem:
        return Content(problem)
    facts, runs = walk(data, header)
    valid = max(0, facts.end_lsn - header.address)
    joined = before if before and _goes_on(header, before[1]) else None
    problem = _broken(data, header, facts, valid) or _wrong_timelines(name, data, header, valid, histories)
    problem = problem or _not_begun(name, header, facts, histories) or _other_timeline(name, header, facts, histories)
    problem = problem or (_torn(data, header, *joined) if joined else None)
    records = RecordCheck(joined[1].tail if joined else None)
    problem = problem or _said(records.segment(data, header, valid, runs))
    if problem:
        return Content(problem, header)
    if not facts.complete:
        return Content(None, header, None, f"its valid data ends at {facts.end_lsn}: {facts.ended_by}")
    blemish = _blemish(data, header, valid) if facts.switched else None
    return Content(None, header, _ending(header, facts, records, joined), None, blemish)


def ending_of(data: bytes) -> Ending | None:
    """Return how a segment ends, without verifying what it holds; None when replay cannot go on behind it.

    Of a record that began in an earlier segment and does not end in this one, the checksum is not known.
    """
    header = walfile.read_header(data)
    if len(data) != header.segment_size:
        return None
    facts = walfile.walk(data, header)
    if not facts.complete:
        return None
    last = facts.carry.lsn if facts.carry is not None else facts.last_record_lsn
    return Ending(header.system_id, int(last or 0), _tail_of(data, header, facts))


def _tail_of(data: bytes, header: SegmentHeader, facts: SegmentFacts) -> Tail:
    """Return what the last record lacks, put together from the pages that it begins and goes on in."""
    carry, block = facts.carry, header.block_size
    if carry is None:
        return Tail(_rest_unfinished(data, header), 0, b"") if not facts.switched else NOTHING
    begin = carry.lsn - header.address
    parts = [data[begin : begin - begin % block + block]]
    for page in range(begin - begin % block + block, len(data), block):
        parts.append(data[page + _SHORT : page + block])
    contents = b"".join(parts)
    return Tail(carry.missing, google_crc32c.value(contents[_RECORD:]), contents[:_RECORD])


def _rest_unfinished(data: bytes, header: SegmentHeader) -> int:
    """Return how many bytes the next segment must bring of a record that fills this one from an earlier one on."""
    page = len(data) - header.block_size
    info, rest = struct.unpack_from("<2xH12xI", data, page)
    return max(0, int(rest) - (header.block_size - (_LONG if info & 0x2 else _SHORT)))


def predecessor(name: str, header: SegmentHeader, histories: Histories) -> str | None:
    """Return the name of the segment that this one goes on from, None for the first of all."""
    timeline, number = segment.parse_segment(name, header.segment_size)
    if number == 0:
        return None
    before = header.timeline
    for switch in history_of(timeline, histories):
        # A timeline that began on a segment's border goes on from its parent's last segment.
        if switch.lsn == header.address and switch.timeline < header.timeline:
            before = switch.timeline
    return segment.segment_name(before, number - 1, header.segment_size)


def ending_before(
    name: str, header: SegmentHeader, histories: Histories, read: Callable[[str], bytes | None]
) -> tuple[str, Ending] | None:
    """Return the name and the ending of the segment that this one goes on from, None when it cannot be had.

    `read` returns the plain content of a segment, None when there is none to be had. When the record that ends in this
    segment fills the one before it, the ones before that are read as well, back to where it begins.
    """
    before = predecessor(name, header, histories)
    data = _content_of(before, read)
    ending = None if data is None else ending_of(data)
    if before is None or data is None or ending is None:
        return None
    if not _is_middle(ending) or header.rem_len > _most_continued(header):
        return before, ending
    return before, _ending_of_middle(before, data, histories, read) or ending


def _is_middle(ending: Ending) -> bool:
    """Tell whether a segment is filled by a record that neither begins nor ends in it."""
    return bool(ending.tail.left and not ending.tail.head)


def _ending_of_middle(
    name: str, data: bytes, histories: Histories, read: Callable[[str], bytes | None]
) -> Ending | None:
    """Return the ending of a segment that a record fills, from where that record begins; None when that is not had."""
    filled = [name]
    while True:
        header = walfile.read_header(data)
        earlier = predecessor(filled[-1], header, histories)
        found = _content_of(earlier, read)
        begin = None if found is None else ending_of(found)
        if earlier is None or found is None or begin is None or not begin.tail.left:
            return None
        if not _is_middle(begin):
            break
        filled.append(earlier)
        data = found
    records = RecordCheck(begin.tail)
    for one in reversed(filled):
        content = _content_of(one, read)
        if content is None or records.segment(content, walfile.read_header(content), len(content)):
            return None
    return Ending(header.system_id, begin.last, records.tail or NOTHING)


def _content_of(name: str | None, read: Callable[[str], bytes | None]) -> bytes | None:
    """Return the content of a segment that is what its name says, by its header."""
    if name is None or (data := read(name)) is None:
        return None
    try:
        header = walfile.read_header(data)
    except WalFormatError:
        return None
    return data if walfile.check_segment(name, header, system_id=None, size=len(data)) is None else None


def _most_continued(header: SegmentHeader) -> int:
    """Return how many bytes of a record a segment can hold."""
    pages = header.segment_size // header.block_size
    return int(header.segment_size - pages * _SHORT - (_LONG - _SHORT))


def _no_header(data: bytes, why: str) -> str:
    if not data:
        return "truncated: it is empty"
    if not any(data):
        return f"zeroed: all of its {len(data)} bytes are zero"
    return f"zeroed: {why}, it begins with zeros" if not any(data[: walfile.HEADER_SIZE]) else f"invalid: {why}"


def _wrong_branch(name: str, header: SegmentHeader, histories: Histories) -> str | None:
    """Return what is wrong with the timeline of the first page: not an ancestor, or left in another segment."""
    own, number = segment.parse_segment(name, header.segment_size)
    switches = history_of(own, histories)
    if header.timeline == own or not switches:
        return None
    left = next((switch.lsn for switch in switches if switch.timeline == header.timeline), None)
    if left is None:
        return f"wrong timeline: its first page is of timeline {header.timeline}, which is no ancestor of {own}"
    if left // header.segment_size != number:
        return f"wrong timeline: its first page is of timeline {header.timeline}, which was left at {left}"
    return None


def _blemish(data: bytes, header: SegmentHeader, valid: int) -> str | None:
    """Return what is wrong behind a switch: nothing but page headers may be there (CopyXLogRecordToWAL in xlog.c)."""
    block = header.block_size
    first = -(-valid // block) * block
    zeros = bytes(block - _SHORT)
    pages = (data[page + _SHORT : page + block] for page in range(first, len(data), block))
    if any(data[valid:first]) or any(page != zeros for page in pages):
        return "behind the switch that ends it not everything is zero; replay never looks there"
    return None


def _broken(data: bytes, header: SegmentHeader, facts: SegmentFacts, valid: int) -> str | None:
    """Return that pages go on behind the end of valid data, which is no end then."""
    if facts.complete:
        return None
    block = header.block_size
    first = -(-valid // block) * block
    # Where a server stopped, no page of the segment follows; where bytes were changed, the pages go on behind them.
    for page in range(first, len(data), block):
        magic, address = struct.unpack_from("<H6xQ", data, page)
        if magic >> 12 == 0xD and address == header.address + page:
            word = "zeroed" if facts.ended_by == "zeros" else "corrupt"
            return f"{word}: its records end at {facts.end_lsn} ({facts.ended_by}), and valid pages follow"
    return None


def _wrong_timelines(name: str, data: bytes, header: SegmentHeader, valid: int, histories: Histories) -> str | None:
    """Return what is wrong with the pages' timelines.

    Each is the one that wrote the page's first byte. PostgreSQL only wants them to be ancestors and never to decrease:
    of a timeline's first segment with what its parent went on with, it would replay the branch that was left.
    """
    own, _ = segment.parse_segment(name, header.segment_size)
    switches = history_of(own, histories)
    line = Lineage.of(own, switches)
    block, last = header.block_size, 0
    whole = min(-(-valid // block), len(data) // block) * block
    timelines = struct.iter_unpack(f"<4xI{block - 8}x", memoryview(data)[:whole])
    if whole >= valid and line.timeline_at(header.address) == own and set(timelines) == {(own,)}:
        return None  # as nearly all are
    for page in range(0, valid, block):
        (timeline,) = struct.unpack_from("<I", data, page + 4)
        address = Lsn(header.address + page)
        if timeline < last or timeline > own:
            return f"corrupt: the page at {address} is of timeline {timeline}"
        if switches and timeline != line.timeline_at(address):
            right = line.timeline_at(address)
            return f"corrupt: the page at {address} is of timeline {timeline} instead of {right}, by {own:08X}.history"
        last = timeline
    return None


def _other_timeline(name: str, header: SegmentHeader, facts: SegmentFacts, histories: Histories) -> str | None:
    """Return that a checkpoint or a promotion is of another timeline: PostgreSQL panics there (checkTimeLineSwitch)."""
    own, _ = segment.parse_segment(name, header.segment_size)
    switches = history_of(own, histories)
    line = Lineage.of(own, switches)
    told = [(record.lsn, record.timeline) for record in facts.checkpoints]
    told += [(record.lsn, record.timeline) for record in facts.end_of_recovery]
    for lsn, timeline in told:
        right = line.timeline_at(lsn) if switches else own
        if timeline > right or (switches and timeline != right):
            return f"corrupt: the record at {lsn} is of timeline {timeline} instead of {right}"
    return None


def _not_begun(name: str, header: SegmentHeader, facts: SegmentFacts, histories: Histories) -> str | None:
    """Return that the data of a timeline's first segment end before that began."""
    own, number = segment.parse_segment(name, header.segment_size)
    switches = history_of(own, histories)
    began = switches[-1].lsn if switches else None
    if began is None or facts.complete or facts.end_lsn >= began or began // header.segment_size != number:
        return None
    return f"corrupt: its valid data ends at {facts.end_lsn} ({facts.ended_by}), and timeline {own} began at {began}"


def _goes_on(header: SegmentHeader, ending: Ending) -> bool:
    """Tell whether a segment has to go on from an ending: not one of another system, nor after a crash."""
    return header.system_id == ending.system and not overwrites(header.magic, header.info)


def _torn(data: bytes, header: SegmentHeader, name: str, ending: Ending) -> str | None:
    """Return why a segment does not go on where the one before it ended."""
    left = ending.tail.left
    if left != header.rem_len:
        return f"corrupt: {CONTINUES} {name}: that needs {left} bytes, and it continues {header.rem_len}"
    link = _first_link(data, header)
    if link is not None and ending.last and link != ending.last:
        return (
            f"corrupt: {CONTINUES} {name}: its first record follows one at {Lsn(link)}, "
            f"the last one there is at {Lsn(ending.last)}"
        )
    return None


def _first_link(data: bytes, header: SegmentHeader) -> int | None:
    """Return xl_prev of the first record that begins in a segment behind the one before; None when there is none."""
    block = header.block_size
    for page in range(0, len(data), block):
        info, rest = struct.unpack_from("<2xH12xI", data, page)
        begin = page + (_LONG if info & 0x2 else _SHORT)
        position = begin + -(-rest // 8) * 8
        if overwrites(header.magic, info):
            return None
        if position >= page + block:
            continue
        head = data[position : min(position + _LINK, page + block)]
        next_page = page + block + _SHORT
        head += data[next_page : next_page + _LINK - len(head)]
        if len(head) < _LINK or not any(head[:4]):
            return None
        return int(struct.unpack_from("<8xQ", head)[0])
    return None


def _said(problem: str | None) -> str | None:
    return None if problem is None else f"corrupt: {problem}"


def _ending(
    header: SegmentHeader, facts: SegmentFacts, records: RecordCheck, joined: tuple[str, Ending] | None
) -> Ending:
    last = facts.carry.lsn if facts.carry is not None else facts.last_record_lsn
    if last is None and joined is not None:
        last = Lsn(joined[1].last)
    return Ending(header.system_id, int(last or 0), records.tail or NOTHING)
