"""Files of incoming/ that are archived, kept a while for the next segments to be written over.

Such a file has its room on the disk already, and mostly in memory: for this PostgreSQL recycles its own segments. Only
one that nobody else can reach is written over: it has no other name, and no process has it open, as the kernel answers
who asks for a lease (fcntl(2), F_SETLEASE). A journal keeps the order: no crash leaves the new content under the old
name. Light: the WAL client loads this.
"""

from __future__ import annotations

import fcntl
import os
import stat
from _signal import SIGURG  # type: ignore[import-not-found]  # signal itself is not light

from engine.wal.temporary import PREFIX, remove_stale, unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout

_MOST = 2 << 30
"""Bytes that are kept at most, and never more than a tenth of what is free."""
_UNUSED = 300.0
"""Seconds after which a file that no segment has come for is removed."""
_TRIES = 3


def room(layout: Layout) -> int:
    """Return how many bytes more may be kept; below 0 when there is too much already."""
    place = _place(layout)
    facts = os.statvfs(layout.home)
    kept = sum(_size(os.path.join(place, name)) for name in _names(place))
    return min(_MOST, facts.f_bavail * facts.f_frsize // 10) - kept


def keep(layout: Layout, path: str) -> bool:
    """Take a file that is archived out of incoming/; False, and it stays, when it cannot be used again."""
    facts = os.lstat(path)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_uid != os.geteuid():
        return False
    place = _place(layout)
    try:
        os.makedirs(place, mode=0o750, exist_ok=True)
        os.rename(path, unique(place, os.path.basename(path)))
    except OSError:
        return False
    return True


def take(layout: Layout, name: str, size: int | None = None) -> tuple[str, int] | None:
    """Return a dot-file of incoming/ for WAL file `name` to be written over, as new_temporary does, or None.

    It has old content, of `size` bytes unless that is None.
    """
    place = _place(layout)
    for kept in sorted(_names(place), key=_when, reverse=True)[:_TRIES]:
        path = unique(layout.incoming, name)
        try:
            descriptor = os.open(os.path.join(place, kept), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if _claim(descriptor, os.path.join(place, kept), path, size):
            return path, descriptor
        os.close(descriptor)
    return None


def trim(layout: Layout) -> int:
    """Remove what no segment has come for, or all when room is scarce; return how many files. What cannot be removed
    stays: archiving does not fail for it."""
    try:
        return remove_stale(_place(layout), _UNUSED if room(layout) >= 0 else 0.0)
    except OSError:
        return 0


def _claim(descriptor: int, kept: str, path: str, size: int | None) -> bool:
    """Lock and move a kept file, and see that it is ours alone; one that is not is removed."""
    facts = os.fstat(descriptor)
    if size not in (None, facts.st_size):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(kept, path)
    except OSError:
        return False
    if os.fstat(descriptor).st_nlink == 1 and os.path.samestat(os.lstat(path), facts) and _alone(descriptor):
        return True
    os.unlink(path)
    return False


def _alone(descriptor: int) -> bool:
    """Tell whether no other opening of this file exists, not even a mapping."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, SIGURG)  # what is sent to who holds a lease would else end this process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False  # somebody has it open, or the file system knows no leases
    return True


def _when(name: str) -> str:
    return name.rpartition("-")[2]


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def _names(place: str) -> list[str]:
    try:
        return [name for name in os.listdir(place) if name.startswith(PREFIX)]
    except OSError:
        return []


def _place(layout: Layout) -> str:
    return os.path.join(layout.own, "recycled")
