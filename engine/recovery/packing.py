"""A backup's files as a tar stream for another host's tar, where they are made whole on the way."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence

from engine.errors import CellarmanError
from engine.recovery.copying import Item, Meter, content

END = bytes(2 * tarfile.BLOCKSIZE)
"""Ends a stream; tar takes one that lacks it for an error."""


def packed(root: str, directories: Sequence[str], items: Sequence[Item], meter: Meter) -> Iterator[bytes | memoryview]:
    """Yield directories and what items make, all of them below `root`, in pieces, each to be used before the next.

    Raises OSError, IncrementError, and CellarmanError for a source that changes meanwhile; the stream then has no end.
    """
    for path in directories:
        yield header(os.path.relpath(path, root), 0, 0, directory=True)
    for item in items:
        yield header(os.path.relpath(item.destination, root), item.size, os.stat(item.source).st_mtime)
        done = 0
        for piece in content(item):
            done += len(piece)
            meter.add(len(piece))
            yield piece
        if done != item.size:
            raise CellarmanError(
                f"{item.source} changed while it was read", f"it made {done} bytes, not {item.size}", "restore again"
            )
        yield bytes(-item.size % tarfile.BLOCKSIZE)
        meter.add(0, 1)
    yield END


def header(name: str, size: int, mtime: float, *, directory: bool = False) -> bytes:
    """Return a member's header, with modes that PostgreSQL accepts and without owners."""
    made = tarfile.TarInfo(name)
    made.size, made.mtime, made.type = size, int(mtime), tarfile.DIRTYPE if directory else tarfile.REGTYPE
    made.mode = 0o700 if directory else 0o600
    return made.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
