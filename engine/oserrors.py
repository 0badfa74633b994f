"""What to do about an answer of the operating system that nobody expected: the disk, not the program, is to blame."""

from __future__ import annotations

import errno
import os
import shlex

from engine.errors import CellarmanError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


def explain(error: OSError) -> CellarmanError:
    """Return a system's refusal as an error that says what it was about and what to do now.

    >>> print("\\n".join(explain(OSError(errno.ENOSPC, "No space left on device", "/srv/a b/x")).lines("")))
    the system refused: /srv/a b/x
    why: No space left on device
    now: make room on its file system (df -h '/srv/a b'), then run it again
    """
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    what = "the system refused" + (f": {path}" if path else "")
    return CellarmanError(what, error.strerror or f"{type(error).__name__}: {error}", advice(error.errno, path))


def advice(number: int | None, path: str) -> str:
    """Return what to do about an error number that came up at `path` ("" for not known)."""
    if number in _FULL:
        return f"make room on its file system (df -h{_at(os.path.dirname(path))}), then run it again"
    if number == errno.EROFS:
        return writable_again(mounted_at(path)) if path else "mount its file system writable, then run it again"
    if number in _FORBIDDEN:
        return f"let account {os.geteuid()}, that runs cellarman, at it (ls -ld{_at(path)}), then run it again"
    if number == errno.EIO:
        return "the disk fails there: see dmesg, and copy away what can still be read"
    return "see to the cause, then run it again"


def mounted_at(path: str) -> str:
    """Return where the file system of a path is mounted, there be something of this name or not."""
    place = os.path.realpath(path)
    while not os.path.ismount(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return place


def writable_again(mount: str) -> str:
    """Return what to do about a file system that is mounted read-only at this place.

    >>> writable_again("/srv/a b")
    "see why (findmnt '/srv/a b'; dmesg), as root: mount -o remount,rw '/srv/a b'; then run it again"
    """
    return f"see why (findmnt{_at(mount)}; dmesg), as root: mount -o remount,rw{_at(mount)}; then run it again"


def _at(path: str) -> str:
    return f" {shlex.quote(path)}" if path else ""
