"""xlog.db, Barman's index of archived WAL: one line an object, a cache of what lies in wals/.

Format: TAB-separated name, size on disk, mtime of the source (epoch, Python's repr of a float), compression,
encryption ("None" when none); four columns before Barman 3.14, three in 1.x. Every writer holds `.S-xlogdb.lock`.
Disk wins: nothing here decides what exists. Light: the WAL client loads this module.
"""

from __future__ import annotations

import os
from collections import namedtuple

from engine.faults import step
from engine.postgres import segment
from engine.repository.files import at_once, listed, replace, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.repository.layout import Layout

HEAD = 32
"""How many first bytes of a file tell its compression."""
_FEW = 16
"""Names up to which searching the index for each is faster than splitting it once."""


class Line(namedtuple("Line", ("name", "size", "time", "compression", "encryption"), defaults=(None, None))):
    """One archived object: bytes on disk, mtime of the source in seconds of the epoch, names of what was done to it."""

    __slots__ = ()
    name: str
    size: int
    time: float
    compression: str | None
    encryption: str | None

    def render(self) -> str:
        """Return the line as it is stored, with its newline.

        >>> Line("00000002.history", 32, 1795341297.6156852).render()
        '00000002.history\\t32\\t1795341297.6156852\\tNone\\tNone\\n'
        """
        compression = self.compression if self.compression and self.compression != "none" else "None"
        return f"{self.name}\t{self.size}\t{float(self.time)!r}\t{compression}\t{self.encryption or 'None'}\n"


class Index(namedtuple("Index", ("lines", "problems"))):
    """What the index says, in its own order, and one text for each of its lines that says nothing."""

    __slots__ = ()
    lines: list[Line]
    problems: list[str]


def parse(text: str) -> Index:
    """Read an index of any age; bad lines become problems.

    >>> parse("00000002.history 32 1.5\\ngarbage\\n").problems
    ["line 2: cannot read 'garbage'"]
    """
    lines: list[Line] = []
    problems: list[str] = []
    for number, row in enumerate(text.splitlines(), 1):
        fields = row.split()
        try:
            if not 3 <= len(fields) <= 5 or segment.kind_of(fields[0]) == segment.FOREIGN:
                raise ValueError
            compression, encryption = (*fields[3:], "None", "None")[:2]
            lines.append(
                Line(
                    fields[0],
                    int(fields[1]),
                    float(fields[2]),
                    None if compression == "None" else compression,
                    None if encryption == "None" else encryption,
                )
            )
        except ValueError:
            problems.append(f"line {number}: cannot read {row[:120]!r}")
    return Index(lines, problems)


def read(layout: Layout) -> Index:
    """Read the server's index under either of its names; a missing one is empty."""
    for path in (layout.xlogdb, layout.old_xlogdb):
        try:
            with open(path, "rb", opener=at_once) as file:
                return parse(file.read().decode("utf-8", "replace"))
        except FileNotFoundError:
            continue
    return Index([], [])


def lacking(layout: Layout, names: Iterable[str]) -> list[str]:
    """Return those of `names` that have no line, without parsing an index that may hold a million of them."""
    data = b"\n"
    for path in (layout.xlogdb, layout.old_xlogdb):
        try:
            with open(path, "rb", opener=at_once) as file:
                data = b"\n" + file.read()
            break
        except FileNotFoundError:
            continue
    wanted = list(names)
    if len(wanted) <= _FEW:
        return [name for name in wanted if not any(b"\n" + name.encode() + blank in data for blank in (b"\t", b" "))]
    present = {row.split(None, 1)[0] for row in data.split(b"\n") if row.strip()}
    return [name for name in wanted if name.encode() not in present]


def append(layout: Layout, lines: Iterable[Line], *, sync: bool = True) -> None:
    """Add lines durably. The caller holds the lock and has made the files that they name durable.

    A last line that a crash cut short is cut off first: its file is on disk without a line, which a pass of ingest
    puts right. An index under Barman's older name is taken over whole.
    """
    data = "".join(line.render() for line in lines).encode()
    if not os.path.exists(layout.xlogdb) and os.path.exists(layout.old_xlogdb):
        rewrite(layout, read(layout).lines)
    fd = os.open(layout.xlogdb, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        end = _mend_tail(fd)
        os.lseek(fd, end, os.SEEK_SET)
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _mend_tail(fd: int) -> int:
    """See that the index ends with a whole line; return its length in bytes."""
    size = os.fstat(fd).st_size
    start = max(0, size - 4096)
    tail = os.pread(fd, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return size
    last = tail[tail.rfind(b"\n") + 1 :]
    if len(last.split()) == 5 and last.endswith((b"\tNone", b"\tgpg")):
        os.pwrite(fd, b"\n", size)
        return size + 1
    os.ftruncate(fd, size - len(last))
    return size - len(last)


def rewrite(layout: Layout, lines: Iterable[Line]) -> None:
    """Replace the whole index at once. The caller holds the lock; Barman opens by path after taking it."""
    data = "".join(line.render() for line in lines).encode()
    directory, name = os.path.split(layout.xlogdb)
    temporary = os.path.join(directory, f".{name}.tmp")  # one name, under one lock: the next writer takes it over
    replace(layout.xlogdb, data, temporary=temporary, fault="xlogdb.temporary-written")
    step("xlogdb.renamed")
    if layout.old_xlogdb != layout.xlogdb and os.path.exists(layout.old_xlogdb):
        os.unlink(layout.old_xlogdb)


def archived(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of every WAL file that lies in wals/, in no order; other files are passed over."""
    for name in listed(layout.wals):
        if segment.kind_of(name) == segment.HISTORY:
            yield name, os.path.join(layout.wals, name)
    for directory in directories(layout):
        yield from archived_in(layout, directory)


def archived_in(layout: Layout, directory: str) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of the WAL files in one of the directories of wals/."""
    place = os.path.join(layout.wals, directory)
    for name in listed(place):
        if name[:16] == directory and segment.kind_of(name) != segment.FOREIGN:
            yield name, f"{place}/{name}"


def directories(layout: Layout) -> list[str]:
    """Return the names of the <timeline><log> directories of wals/, in order."""
    return sorted(
        name
        for name in listed(layout.wals)
        if len(name) == 16 and segment.kind_of(name + "00000000") == segment.SEGMENT
    )


def rebuild(layout: Layout, sniff: Callable[[bytes], str]) -> list[Line]:
    """Make the index anew from the files on disk, sorted by name, and return it. The caller holds the lock.

    `sniff` tells the compression of a file from its first bytes ("none", "pgp" for an encrypted file, …).
    .partial files get no line, as Barman's own rebuilding does.
    """
    lines = [line_of(path, sniff) for name, path in sorted(archived(layout)) if not name.endswith(".partial")]
    rewrite(layout, lines)
    return lines


def line_of(path: str, sniff: Callable[[bytes], str]) -> Line:
    """Return the line that an archived file should have."""
    with open(path, "rb", opener=at_once) as file:
        kind = sniff(file.read(HEAD))
        facts = os.fstat(file.fileno())
    encrypted = kind == "pgp"
    return Line(
        os.path.basename(path),
        facts.st_size,
        facts.st_mtime,
        None if encrypted or kind == "none" else kind,
        "gpg" if encrypted else None,
    )
