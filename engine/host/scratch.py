"""Directories for files that are needed while something runs, and that no death of it leaves behind for long.

Who makes one holds a lock on it (flock(2)), which the kernel lets go when that process dies; whoever sweeps removes
those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

_PREFIX = "cellarman-scratch-"
_YOUNGEST = 60.0
"""Seconds: a directory is locked a moment after it is made."""


@contextlib.contextmanager
def directory(place: str = "") -> Iterator[str]:
    """Give a new directory in `place`, else where temporary files go; it is removed afterwards."""
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=place or None)
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def sweep() -> int:
    """Remove this account's directories that dead processes left, and return how many there were."""
    places = dict.fromkeys(map(os.path.realpath, (tempfile.gettempdir(), "/tmp")))
    return sum(_remove(path) for place in places for path in _ours(place))


def _ours(place: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        return [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    return []


def _remove(path: str) -> bool:
    """Remove a directory unless it is held, new, or another account's; tell whether it went."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        facts = os.fstat(held)
        if facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < _YOUNGEST:
            return False
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return not os.path.lexists(path)
    finally:
        os.close(held)
