"""Durable small files: written beside the target, synced, renamed over it, the directory synced. Light."""

from __future__ import annotations

import os
from _thread import get_ident  # threading itself is not light

from engine.faults import step


def replace(path: str, data: bytes, *, mode: int = 0o640, temporary: str = "", fault: str = "") -> None:
    """Give `path` the content `data` so that a reader, or a crash, sees the old file or the new one and no other.

    `temporary` defaults to a dot-file beside it that two writers at once do not share. `fault` names the step between
    the sync and the rename.
    """
    directory, name = os.path.split(path)
    temporary = temporary or os.path.join(directory, f".{name}.{os.getpid()}-{get_ident()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except BaseException as error:
        os.close(fd)
        _forget(temporary)
        if isinstance(error, OSError):
            error.filename = path  # a write knows only its descriptor
        raise
    os.close(fd)
    if fault:
        step(fault)
    os.rename(temporary, path)
    sync_directory(directory)


def at_once(path: str, flags: int) -> int:
    """Open for reading without waiting, as a named pipe in a file's place would have one wait: it reads as empty."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def write_out(fd: int, at: int, count: int) -> None:
    """Have the kernel begin to write what was just written to a range; a hint, which some file systems do not take."""
    try:
        os.posix_fadvise(fd, at, count, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass


def write_all(fd: int, data: bytes | memoryview) -> int:
    """Write all of `data`, however many calls that takes; return how many bytes that is."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def listed(directory: str) -> list[str]:
    """Return the names in a directory, none where there is no such directory; raises OSError for any other reason."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_file(path: str) -> None:
    """Make a file's content durable, whoever wrote it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> bool:
    """Unlink `path` if it is there; tell whether it was."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _forget(path: str) -> None:
    """Remove a temporary file after a failure that is already on its way to the caller."""
    try:
        os.unlink(path)
    except OSError:
        pass
