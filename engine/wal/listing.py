"""What lies in the archive and its queues, read from the directories: names only, no file is opened but histories."""

from __future__ import annotations

import os
from collections.abc import Iterator

from engine.errors import CellarmanError
from engine.postgres import segment
from engine.postgres.timeline import Switch, parse_history
from engine.postgres.walfile import WalFormatError, read_header
from engine.repository import files
from engine.repository.layout import Layout
from engine.wal import codec, inspection
from engine.wal.gaps import Archive

_BIGGEST_HISTORY = 1 << 20
_DEFAULT_SEGMENT_SIZE = 16 << 20


def scan(layout: Layout, segment_size: int | None = None) -> Archive:
    """Return the segments and histories in wals/, and the complete ones in incoming/ and streaming/.

    `segment_size` in bytes; None takes it from the newest segment that can be read.
    """
    size = segment_size or _segment_size(layout, sorted(_directories(layout))) or _DEFAULT_SEGMENT_SIZE
    segments: dict[int, list[int]] = {}
    # Against the stream, queues first and the newest directory next: a file that moves on meanwhile is seen twice,
    # never not at all, which would look like a hole.
    for queue in (layout.incoming, layout.streaming):
        for name in _queued(queue, size):
            timeline, number = segment.parse_segment(name, size)
            segments.setdefault(timeline, []).append(number)
    for name in sorted(_directories(layout), reverse=True):
        _add_directory(layout, name, size, segments)
    histories, bad = _histories(layout)
    found = {timeline: sorted(set(numbers)) for timeline, numbers in segments.items()}
    return Archive(size, found, histories, {}, bad)


def locate(layout: Layout, name: str) -> str:
    """Return where a segment lies: in the archive, or else in a queue; the archive's place when it is nowhere."""
    return next((path for path in layout.places(name) if os.path.exists(path)), layout.wal(name))


def _names(directory: str) -> list[str]:
    try:
        return files.listed(directory)
    except OSError as error:
        raise CellarmanError(
            f"the WAL archive cannot be read: {directory}", str(error), "make it readable for this account"
        ) from error


def _directories(layout: Layout) -> Iterator[str]:
    """Yield the names of the directories of segments: timeline and log, 16 digits."""
    return (name for name in _names(layout.wals) if segment.kind_of(name + "00000000") == segment.SEGMENT)


def _add_directory(layout: Layout, directory: str, size: int, segments: dict[int, list[int]]) -> None:
    """Add the segments in one directory; a name that cannot exist with this segment size is left out."""
    per_log = 0x1_0000_0000 // size
    base = int(directory[8:], 16) * per_log
    numbers: list[int] = []
    for name in _names(os.path.join(layout.wals, directory)):
        if len(name) == 24 and name.startswith(directory) and segment.kind_of(name) == segment.SEGMENT:
            within = int(name[16:], 16)
            if within < per_log:
                numbers.append(base + within)
    if numbers:
        segments.setdefault(int(directory[:8], 16), []).extend(numbers)


def _queued(directory: str, size: int) -> Iterator[str]:
    """Yield the segments in a queue that have their full size."""
    for name in _names(directory):
        if segment.kind_of(name) != segment.SEGMENT:
            continue
        if int(name[16:], 16) < 0x1_0000_0000 // size and inspection.may_be_whole(os.path.join(directory, name), size):
            yield name


def _segment_size(layout: Layout, directories: list[str]) -> int | None:
    """Return the size that the newest readable segment's header states."""
    for directory in reversed(directories):
        for name in sorted(_names(os.path.join(layout.wals, directory)), reverse=True):
            if segment.kind_of(name) != segment.SEGMENT:
                continue
            try:
                return int(read_header(codec.read_head(os.path.join(layout.wals, directory, name), 40)).segment_size)
            except (WalFormatError, codec.Unreadable, OSError):
                continue
    return None


def _histories(layout: Layout) -> tuple[dict[int, tuple[Switch, ...]], dict[int, str]]:
    """Return the timeline histories in the archive and its queues, and why others cannot be used."""
    good: dict[int, tuple[Switch, ...]] = {}
    bad: dict[int, str] = {}
    for directory in (layout.streaming, layout.incoming, layout.wals):
        for name in _names(directory):
            if segment.kind_of(name) != segment.HISTORY:
                continue
            timeline = int(name[:8], 16)
            try:
                plain = codec.read_segment(os.path.join(directory, name), _BIGGEST_HISTORY)
                good[timeline] = parse_history(timeline, plain.decode("utf-8", "replace"))
                bad.pop(timeline, None)
            except FileNotFoundError:
                continue
            except (CellarmanError, ValueError, OSError) as error:
                bad[timeline] = f"{name} cannot be read: {error}"
    return good, bad
