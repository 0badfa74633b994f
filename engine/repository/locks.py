"""Barman's lock files: flock(2) on a file that nobody unlinks, with bounded waits and the holder named.

Protocol (shared with Barman): open O_CREAT|O_RDWR 0600, flock LOCK_EX, then write "<pid>\\n" at offset 0 and truncate
there. Barman's cron may unlink free lock files, so after every acquisition the descriptor's inode is compared with the
path's, and a lock on an unlinked file is thrown away. Light: the WAL client loads this module.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections import namedtuple

from engine.errors import Busy, CellarmanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_POLL = 0.02
_GRACE = 0.05
"""Even a lock that is not waited for is tried this long: `holder` takes it for some microseconds to look."""


class Holder(namedtuple("Holder", ("pid", "command", "since"))):
    """Who holds a lock: pid (0 when the file does not tell), command line ("" when not visible), and since when.

    `since` is in seconds of the epoch: the lock file is written when the lock is taken.
    """

    __slots__ = ()
    pid: int
    command: str
    since: float

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "a process that did not leave its pid"
        return f"{who} ({self.command})" if self.command else who


class Lock:
    """A held lock, released at the end of its `with` block or by `release`."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def is_current(self) -> bool:
        """Tell whether the lock file is still the one that is held; when it was removed, others can hold another."""
        return self._fd >= 0 and _is_current(self._fd, self.path)

    def release(self) -> None:
        """Let go of the lock; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def hold(path: str, *, wait: float = 0, what: str = "", shared: bool = False, reads: bool = False) -> Lock:
    """Take the lock at `path`, waiting at most `wait` seconds, and return it for a `with` block.

    `what` says in the error what cannot be done. `shared` holders do not exclude each other, only exclusive ones.
    Who only `reads` goes without the lock where none can be made: a repository on a file system that is read-only is
    restored from all the same.
    Raises Busy, naming the holder, when the time is over, and CellarmanError when the lock file cannot be used.
    """
    if reads and _is_read_only(os.path.dirname(path)):
        return Lock(path, -1)
    deadline = time.monotonic() + max(wait, _GRACE)
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    while True:
        fd = _open(path)
        try:
            if _try(fd, mode) and _is_current(fd, path):
                _sign(fd)
                lock = Lock(path, fd)
                fd = -1
                return lock
            held_by = _describe(fd)
        except OSError as error:
            raise CellarmanError(f"cannot lock {path}", str(error)) from error
        finally:
            if fd >= 0:
                os.close(fd)
        if time.monotonic() >= deadline:
            raise _busy(path, wait, what, held_by)
        time.sleep(_POLL)


def holder(path: str, *, shared: bool = False) -> Holder | None:
    """Return who holds the lock at `path` now, or None when nobody does or there is no such file.

    Shared holders are seen only when `shared` is set.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CellarmanError(f"cannot look at the lock {path}", str(error)) from error
    try:
        if _try(fd, fcntl.LOCK_SH | fcntl.LOCK_NB) and not (shared and not _try(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            return None
        return _describe(fd)
    finally:
        os.close(fd)


def _is_read_only(directory: str) -> bool:
    """Tell whether a directory's file system is mounted read-only; False for one that is not there."""
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CellarmanError(
            f"cannot open the lock file {path}",
            str(error),
            "mount its file system writable: mount -o remount,rw, as root"
            if error.errno == errno.EROFS
            else f"see that {os.path.dirname(path)} exists and belongs to the account that runs this",
        ) from error


def _sign(fd: int) -> None:
    """Write who holds the lock; on a full disk it is held all the same, by somebody who left no pid."""
    pid = b"%d\n" % os.getpid()
    try:
        os.pwrite(fd, pid, 0)
        os.ftruncate(fd, len(pid))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(fd, 0)


def _try(fd: int, mode: int) -> bool:
    try:
        fcntl.flock(fd, mode)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _is_current(fd: int, path: str) -> bool:
    """Tell whether `path` still names the file that is open as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(fd: int) -> Holder:
    text = os.pread(fd, 32, 0).split(b"\n")[0].strip()
    pid = int(text) if text.isdigit() else 0
    return Holder(pid, _command(pid) if pid else "", os.fstat(fd).st_mtime)


def _command(pid: int) -> str:
    """Return a process's command line for people, or "" when it is gone or hidden."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(400).split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode("utf-8", "replace").strip()


def _busy(path: str, wait: float, what: str, held_by: Holder) -> Busy:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(held_by.since))
    waited = f" after waiting {wait:g} s" if wait else ""
    return Busy(
        f"cannot {what}: another process holds the lock{waited}" if what else f"{path} is locked{waited}",
        f"{held_by} holds {path} since {since}",
        f"wait for it, or look at it: ps -fp {held_by.pid}" if held_by.pid else f"see who has it open: fuser -v {path}",
    )
