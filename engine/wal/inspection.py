"""Is this file what its name says, and whose is it? Asked before a WAL file is taken and before one is handed out.

Light: the WAL client loads this.
"""

from __future__ import annotations

import os
import stat
from collections import namedtuple

from engine.errors import CellarmanError
from engine.postgres import segment, timeline, walfile
from engine.repository import identity, xlogdb
from engine.repository.files import at_once, listed
from engine.wal import codec
from engine.wal.refusal import Alien, Damaged, Foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.postgres.walfile import SegmentHeader
    from engine.repository.layout import Layout


class Facts(namedtuple("Facts", ("name", "kind", "codec", "size", "mtime", "mtime_ns", "mode", "header"))):
    """A verified WAL file: its stored codec, bytes on disk, times and mode; the header only of segments."""

    __slots__ = ()
    name: str
    kind: str
    codec: str
    size: int
    mtime: float
    mtime_ns: int
    mode: int
    header: SegmentHeader | None


def examine(descriptor: int, name: str, system_id: int | None) -> Facts:
    """Verify an open file against its name and, when known, the cluster's system identifier.

    Raises Foreign, Damaged or Alien with the reason. Segments that arrive compressed are looked into.
    """
    kind = segment.kind_of(name)
    if kind == segment.FOREIGN:
        raise foreign(name)
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise Foreign(f"{name} is refused", "it is not a regular file")
    first = os.pread(descriptor, walfile.PAGE, 0)
    packed = codec.sniff(first)
    header = None
    if kind in (segment.SEGMENT, segment.PARTIAL):
        size = info.st_size
        if packed != "none":
            first = _unpack(descriptor, name, size)
            size = len(first)
        header = check_segment(name, first, size, system_id)
    else:
        _check_text(name, kind, os.pread(descriptor, codec.SMALL_FILE + 1, 0))
    mode = stat.S_IMODE(info.st_mode)
    return Facts(name, kind, packed, info.st_size, info.st_mtime, info.st_mtime_ns, mode, header)


def may_be_whole(path: str, size: int) -> bool:
    """Tell whether a queued segment has its full size, or is compressed: only reading it tells its size then."""
    try:
        stored = os.stat(path).st_size
        return stored == size or (0 < stored < size and codec.sniff(_first(path)) != "none")
    except OSError:
        return False


def _first(path: str) -> bytes:
    with open(path, "rb", buffering=0, opener=at_once) as file:
        return file.read(32)


def foreign(name: str) -> Foreign:
    """Return the refusal of a name that PostgreSQL gives to no WAL file."""
    return Foreign(f"{name!r} is refused", "it is not the name of a WAL segment, .partial, .backup or .history file")


def check_segment(name: str, first: bytes, size: int, system_id: int | None) -> SegmentHeader | None:
    """Return the header of a segment whose first plain bytes are `first`, of `size` plain bytes.

    Raises Alien or Damaged. A .partial may be short or not begun: then None.
    """
    partial = name.endswith(".partial")
    try:
        header = walfile.read_header(first)
    except walfile.WalFormatError as error:
        if partial:
            return None
        raise Damaged(f"{name} is refused", _zeros(first, error.why)) from None
    if system_id is not None:
        check_system(name, header, system_id)
    reason = walfile.check_segment(name, header, system_id=None, size=header.segment_size if partial else size)
    if reason is not None:
        raise Damaged(f"{name} is refused", reason)
    return header


def check_system(name: str, header: SegmentHeader, system_id: int) -> None:
    """Raise Alien unless the segment is of this cluster."""
    if header.system_id != system_id:
        raise Alien(
            f"{name} is refused",
            f"it belongs to the system {header.system_id}, this archive is of {system_id}",
            "give each cluster a [servers.NAME] of its own; after a new initdb or pg_upgrade, move the old "
            "cluster's directory aside",
        )


def check_content(name: str, plain: bytes, system_id: int | None = None) -> SegmentHeader | None:
    """Verify the whole plain content of a WAL file; return a segment's header. Raises Alien or Damaged."""
    kind = segment.kind_of(name)
    if kind in (segment.SEGMENT, segment.PARTIAL):
        return check_segment(name, plain[: walfile.PAGE], len(plain), system_id)
    _check_text(name, kind, plain)
    return None


def _zeros(first: bytes, why: str) -> str:
    return f"{why}: it begins with zeros" if first and not any(first) else why


def _unpack(descriptor: int, name: str, size: int) -> bytes:
    try:
        return codec.decompress(os.pread(descriptor, size, 0))
    except codec.Unreadable as error:
        raise Damaged(f"{name} is refused", str(error)) from None


def _check_text(name: str, kind: str, content: bytes) -> None:
    """Refuse a history or backup label file that recovery could not read."""
    if len(content) > codec.SMALL_FILE:
        raise Damaged(f"{name} is refused", f"it has more than {codec.SMALL_FILE} bytes")
    try:
        text = codec.decompress(content, codec.SMALL_FILE).decode("utf-8", "replace")
        if kind == segment.HISTORY:
            timeline.parse_history(int(name[:8], 16), text)
        elif not text.startswith("START WAL LOCATION:"):
            raise ValueError("it does not begin with START WAL LOCATION")
    except (ValueError, codec.Unreadable) as error:
        raise Damaged(f"{name} is refused", str(error)) from None


def known_system(layout: Layout) -> int | None:
    """Return the cluster that this archive belongs to: by identity.json, a backup.info, or a segment in it."""
    known = identity.system_id(layout)
    if known is None:
        known = _of_backups(layout)
    return known if known is not None else _of_archive(layout)


def magic_of(layout: Layout, system_id: int | None) -> int | None:
    """Return the magic number that a system's pages have, None when this archive is not known to be that system's."""
    try:
        own = system_id is not None and identity.system_id(layout) == system_id
    except CellarmanError:
        return None
    return walfile.magic_of(identity.major(layout)) if own else None


def establish(layout: Layout, header: SegmentHeader) -> int:
    """Return the archive's system identifier, making it that of `header` when nothing says another. Under the lock."""
    known = known_system(layout)
    system = header.system_id if known is None else known
    major = walfile.major_of(header.magic)
    if system == header.system_id and major is not None:
        identity.write(layout, system, major)
    return int(system)


def _of_backups(layout: Layout) -> int | None:
    """Return the systemid that the newest backup.info with one states."""
    found = [os.path.join(layout.meta, name) for name in listed(layout.meta) if name.endswith("-backup.info")]
    found += [layout.old_backup_info(name) for name in listed(layout.base)]
    for path in sorted(found, key=os.path.basename, reverse=True):
        try:
            with open(path, "rb", opener=at_once) as file:
                lines = file.read(1 << 20).splitlines()
        except (FileNotFoundError, NotADirectoryError):
            continue
        for line in lines:
            key, _, value = line.partition(b"=")
            if key.strip() == b"systemid" and value.strip().isdigit():
                return int(value)
    return None


def _of_archive(layout: Layout) -> int | None:
    """Return the system identifier in some archived segment."""
    for name, path in xlogdb.archived(layout):
        if segment.kind_of(name) != segment.SEGMENT:
            continue
        try:
            return int(walfile.read_header(codec.read_head(path)).system_id)
        except (CellarmanError, OSError):
            continue
    return None
