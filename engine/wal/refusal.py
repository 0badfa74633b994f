"""WAL that is not taken, and where it is kept with the reason. Light: the WAL client loads this.

::

    WalRefused          word
    ├── Conflict        duplicate   the archive holds other content under this name
    ├── Alien           alien       another cluster's WAL
    ├── Damaged         damaged     cut short, zeroed, under a wrong name, not what its name says
    └── Foreign         unknown     no WAL file's name

`word` ends the name under which errors/ keeps the file; Barman counts `duplicate` and `unknown` apart from others.
"""

from __future__ import annotations

import errno
import os
import time

from engine.errors import CellarmanError
from engine.repository.files import sync_directory, write_all
from engine.wal.codec import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout

_LONGEST = 200
"""Bytes of a foreign name that are kept, so that stamp and word still fit into a file name's 255."""


class WalRefused(CellarmanError):
    """A file that must not enter the archive; `why` says what is wrong with it."""

    exit_code = 1
    word = "unknown"


class Conflict(WalRefused):
    """The archive already holds different content under this name."""

    word = "duplicate"


class Alien(WalRefused):
    """The segment was written by another cluster."""

    word = "alien"


class Damaged(WalRefused):
    """The content is not what the name says."""

    word = "damaged"


class Foreign(WalRefused):
    """The name is not a WAL file's."""


def keep(layout: Layout, path: str, name: str, refused: WalRefused) -> str:
    """Move the file at `path` into errors/ durably, its reason beside it, and return where it is now.

    The names are errors/<name>.<UTC>.<word> and the same with .reason.txt.
    """
    os.makedirs(layout.errors, exist_ok=True)
    target = _free_name(layout, name, refused.word)
    note(target + ".reason.txt", refused)
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _carry_over(path, target)
    sync_directory(layout.errors)
    return target


def note(path: str, refused: WalRefused) -> None:
    """Write the reason for a refusal, for people."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        write_all(fd, ("\n".join(refused.lines("")) + "\n").encode("utf-8", "backslashreplace"))
        os.fsync(fd)
    finally:
        os.close(fd)


def _free_name(layout: Layout, name: str, word: str) -> str:
    """Return a path in errors/ that nobody has yet."""
    stem = os.fsdecode(os.fsencode(name)[:_LONGEST])
    when = time.time()
    while True:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))
        path = os.path.join(layout.errors, f"{stem}.{stamp}.{word}")
        if not os.path.lexists(path):
            return path
        when += 1


def _carry_over(path: str, target: str) -> None:
    """Move a file to another file system: copied, synced, then removed."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while data := os.read(source, CHUNK):
                write_all(sink, data)
            os.fsync(sink)
        finally:
            os.close(sink)
    finally:
        os.close(source)
    sync_directory(os.path.dirname(target))
    os.unlink(path)
