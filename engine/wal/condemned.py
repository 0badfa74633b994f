"""Archived segments that reading them whole has found bad, for those who have no time to read them so.

A small file for each, .cellarman/bad-wal/NAME: size, mtime and inode of the archived file on the first line, what is
wrong with it on the second. It speaks of that very file only: whatever takes its place is not condemned. Derived, as
all in .cellarman/. Light: the WAL client loads this.
"""

from __future__ import annotations

import os

from engine.repository.files import at_once, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.repository.layout import Layout

_LONGEST = 4096
_SIGNED = (1 << 63) - 1
"""What SQLite, where this is kept as well, takes for an integer."""


def reason(layout: Layout, name: str) -> str:
    """Return what is wrong with an archived segment, "" when nothing is known against it."""
    try:
        with open(_path(layout, name), "rb", buffering=0, opener=at_once) as file:
            about, _, why = file.read(_LONGEST).decode("utf-8", "replace").partition("\n")
        found = os.stat(layout.wal(name))
    except OSError:
        return ""
    return why.strip() if about.split() == [str(part) for part in identity(found)] else ""


def each(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield (name, what is wrong) of the segments that are condemned now, by name."""
    for name in sorted(names(layout)):
        why = reason(layout, name)
        if why:
            yield name, why


def names(layout: Layout) -> list[str]:
    """Return the names that something was written down about, whether it still holds or not."""
    try:
        return [name for name in os.listdir(directory(layout)) if not name.startswith(".")]
    except OSError:
        return []


def identity(found: os.stat_result) -> tuple[int, int, int]:
    """Return size, mtime in nanoseconds and inode: another file under the same name has another one."""
    return found.st_size, found.st_mtime_ns, found.st_ino & _SIGNED


def condemn(layout: Layout, name: str, about: tuple[int, int, int], why: str) -> None:
    """Write down what is wrong with an archived segment that was read as `about`.

    It is not synced: what a crash takes away, the next audit writes again from its log.
    """
    os.makedirs(directory(layout), mode=0o750, exist_ok=True)
    text = f"{about[0]} {about[1]} {about[2]}\n{' '.join(why.split())}\n"
    temporary = os.path.join(directory(layout), f".{name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        write_all(descriptor, text.encode("utf-8", "replace")[:_LONGEST])
    finally:
        os.close(descriptor)
    os.rename(temporary, _path(layout, name))


def absolve(layout: Layout, name: str) -> None:
    """Take back what was written down about a segment."""
    try:
        os.unlink(_path(layout, name))
    except FileNotFoundError:
        pass


def directory(layout: Layout) -> str:
    return os.path.join(layout.own, "bad-wal")


def _path(layout: Layout, name: str) -> str:
    return os.path.join(directory(layout), name)
