"""Would PostgreSQL replay this segment to its end? Asked before a segment is handed out, and before a recovery may end.

PostgreSQL takes a record that it cannot read for the end of all WAL, and promotes (ReadRecord in xlogrecovery.c): so
what it is given is read to the last record first, and held against the segment before it. Light: the WAL client loads
this.
"""

from __future__ import annotations

import os
import stat

from engine.errors import CellarmanError
from engine.postgres import segment, timeline, walfile
from engine.wal import codec, contentcheck, inspection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from mmap import mmap

    from engine.repository.layout import Layout
    from engine.wal.contentcheck import Content, Ending, Histories, Walk

_CONTINUES = f"corrupt: {contentcheck.CONTINUES}"


def judge(
    layout: Layout, name: str, data: bytes, system_id: int | None, room: str = "", *, begins: bool = False
) -> Content:
    """Judge the plain content of a segment with what comes before it in the archive, of which large segments may be
    unpacked in the directory `room` instead of in memory. Nothing comes before one in which recovery `begins`."""
    magic = inspection.magic_of(layout, system_id)
    known = _histories(layout)
    if begins:
        systems = () if system_id is None else (system_id,)
        return contentcheck.check(name, data, systems=systems, histories=known, magic=magic)
    return judge_with(layout, name, data, system_id, known, magic, room=room)


def judge_with(
    layout: Layout,
    name: str,
    data: bytes,
    system_id: int | None,
    histories: Histories,
    magic: int | None,
    before: tuple[str, Ending] | None = None,
    room: str = "",
    walk: Walk = contentcheck.one_by_one,
) -> Content:
    """Judge as `judge` does, by what is known already; `before` is the ending of the segment before it."""

    def content(one: str) -> bytes | None:
        return read(layout, one, room if len(data) > codec.LARGE else "")

    try:
        before = before or contentcheck.ending_before(name, walfile.read_header(data), histories, content)
    except (CellarmanError, ValueError):
        before = None  # its header is not one, or not this segment's: that is what is wrong with it
    systems = () if system_id is None else (system_id,)
    return joined(name, data, systems=systems, histories=histories, before=before, magic=magic, read=content, walk=walk)


def joined(
    name: str,
    data: bytes,
    *,
    systems: Sequence[int],
    histories: Histories,
    before: tuple[str, Ending] | None,
    magic: int | None,
    read: Callable[[str], bytes | None],
    walk: Walk = contentcheck.one_by_one,
) -> Content:
    """Judge a segment as `contentcheck.check` does; that it does not continue a segment which is bad itself does not
    speak against it. `read` returns the plain content of a segment, None when there is none to be had."""
    found = contentcheck.check(name, data, systems=systems, histories=histories, before=before, magic=magic, walk=walk)
    if before and found.problem and found.problem.startswith(_CONTINUES):
        other_data = read(before[0])
        other = (
            None
            if other_data is None
            else contentcheck.check(before[0], other_data, systems=systems, histories=histories)
        )
        if other is None or other.problem or other.short:
            return contentcheck.check(name, data, systems=systems, histories=histories, magic=magic, walk=walk)
    return found


def read(layout: Layout, name: str, room: str = "") -> bytes | None:
    """Return the plain content of a segment in the archive or its queues, mapped from the directory `room` if one is
    given; None when there is none to be had."""
    for path in layout.places(name):
        try:
            mapped = _mapped(path, room) if room else None
            return codec.read_segment(path) if mapped is None else mapped
        except (CellarmanError, OSError):
            continue
    return None


def _mapped(path: str, room: str) -> bytes | None:
    """Return a segment's content mapped, None where that cannot be: no room, or a file system that maps none."""
    try:
        return codec.map_segment(path, room)  # type: ignore[return-value]
    except OSError:
        return None


def written(stored: bytes | mmap, descriptor: int, size: int) -> bytes:
    """Return the plain content of `stored`, which was written to `descriptor`, without holding it twice in memory."""
    if isinstance(stored, bytes) and codec.sniff(stored[:32]) == "none":
        return stored
    if size and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return codec.map_file(descriptor, size)  # type: ignore[return-value]
    return codec.decompress(bytes(stored))


def last_restored(directory: str, system_id: int | None) -> tuple[str, bytes] | None:
    """Return the name and content of the newest segment that a recovering server has in its pg_wal.

    It keeps what it restored under its own name (KeepFileRestoredFromArchive in xlogarchive.c); files that it has
    recycled for later hold another segment's WAL.
    """
    names = [name for name in os.listdir(directory) if segment.kind_of(name) == segment.SEGMENT]
    for name in sorted(names, key=lambda name: (name[8:], name[:8]), reverse=True):
        with open(os.path.join(directory, name), "rb", buffering=0) as file:
            try:
                header = walfile.read_header(file.read(walfile.HEADER_SIZE))
            except CellarmanError:
                continue
            size = os.fstat(file.fileno()).st_size
            if walfile.check_segment(name, header, system_id=system_id, size=size) is None:
                if size > codec.LARGE:
                    return name, codec.map_file(file.fileno(), size)  # type: ignore[return-value]
                file.seek(0)
                return name, file.read()
    return None


def _histories(layout: Layout) -> dict[int, tuple[timeline.Switch, ...]]:
    """Return the timelines' histories; one that cannot be read tells nothing."""
    found: dict[int, tuple[timeline.Switch, ...]] = {}
    for name in _history_names(layout):
        number = int(name[:8], 16)
        for path in layout.places(name):
            try:
                text = codec.read_segment(path, codec.SMALL_FILE).decode("utf-8", "replace")
                found[number] = timeline.parse_history(number, text)
                break
            except (OSError, ValueError, CellarmanError):
                continue
    return found


def _history_names(layout: Layout) -> Iterator[str]:
    for place in (layout.wals, layout.incoming, layout.streaming):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        yield from (name for name in names if segment.kind_of(name) == segment.HISTORY)
