"""Segments made ready ahead of replay: where `get` finds them, and how it tells the helper how far replay has come.

The helper (`engine.wal.prefetch`) leaves verified plain segments in a directory beside the one that is being restored,
each under a name that holds the identity of the archive's file (inode, size, times): a file that was replaced since
has another name, so a stale segment is never found. Nothing is decided here but "this segment is ready": whatever is
not as it should be is the slow path's. Only what a living helper left is used, so nothing from before a crash is.
The shell script `cellarman-wal` takes what is ready before any of this is loaded; FOR tells it whose the spool is.
Light: the WAL client loads this.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import zlib

from engine.errors import CellarmanError
from engine.postgres import segment, walfile
from engine.wal import condemned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout

PREFIX = ".cellarman-prefetch-"
"""How the name of a spool begins."""
BELL = "bell"
"""The FIFO that takes the names of delivered segments; it has a reader as long as the helper lives."""
FOR = "for"
"""What the shell script asks before it takes a segment, a line each: the id of the boot, the helper's pid, the segment
size, the words that a `get` has behind NAME and PATH, with $CELLARMAN_CONFIG, when it means this archive, the archive's
directory, and the one of what is condemned."""
LOCK = "lock"
UNDERWAY = ".part"
"""Ends the name of a segment that is being made ready."""

_WAIT = 0.05
"""Seconds that a segment is waited for that is being made ready: to make it again would take as long."""
_POLL = 0.001
_START = 1.0
"""Seconds that a helper is given to start before another one is started."""


class Spool:
    """The spool of one restore; `path` may not be there yet. `data` is its data directory, "" when there is none."""

    __slots__ = ("_bell", "data", "layout", "path")

    def __init__(self, path: str, layout: Layout, data: str) -> None:
        self.path = path
        self.layout = layout
        self.data = data
        self._bell = _open_bell(path)

    def take(self, name: str, destination: str, system_id: int | None) -> bool:
        """Move segment `name` to `destination` if the file that the archive holds now is ready; tell whether it was."""
        if self._bell is None or condemned.reason(self.layout, name):
            return False
        try:
            ready = os.path.join(self.path, entry(name, identity(self.layout.wal(name))))
            if not (_await(ready) and _move(ready, destination)):
                return False
            good = _is_good(destination, name, system_id)
            if not good:
                os.unlink(destination)
            return good
        except OSError:
            return False

    def start(self, name: str, system_id: int | None) -> None:
        """Start a helper, which begins with what follows `name`, when there is none and the archive holds `name`.

        It makes the next ones ready while this one is still fetched. Never waits, never fails.
        """
        try:
            if self._bell is None and os.path.exists(self.layout.wal(name)) and not _is_starting(self.path):
                _start(self, name, system_id)
        except OSError:
            return  # there is a slow path

    def tell(self, name: str) -> None:
        """Tell the helper, if one listens, that `name` was delivered. Never waits, never fails."""
        try:
            if self._bell is not None:
                os.write(self._bell, name.encode() + b"\n")
        except OSError:
            return


def of(layout: Layout, name: str, destination: str) -> Spool | None:
    """Return the spool for the restore that `destination` is part of; None when this is no segment of a sequence.

    A sequence is what a recovering PostgreSQL asks for, and what follows the segment before it into one directory.
    """
    if segment.kind_of(name) != segment.SEGMENT:
        return None
    try:
        data = _recovering(destination)
        anchor = data or os.path.dirname(os.path.abspath(destination))
        if not data and not _continues(name, destination, anchor):
            return None
        return Spool(_place(anchor, layout.wals), layout, data)
    except (OSError, ValueError):
        return None


def identity(path: str) -> str:
    """Return what is another whenever an archive's file is another one, or was written to. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # on NFS, opening asks the server anew
    try:
        return stamp(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def stamp(facts: os.stat_result) -> str:
    """Return a file's identity as a part of a name: what stat(1) prints for %D-%i-%s-%.9Y-%.9Z."""
    times = "-".join(f"{ns // 10**9}.{ns % 10**9:09}" for ns in (facts.st_mtime_ns, facts.st_ctime_ns))
    return f"{facts.st_dev:x}-{facts.st_ino}-{facts.st_size}-{times}"


def entry(name: str, identified: str) -> str:
    """Return under which name the spool holds a segment.

    >>> entry("000000010000000000000005", "1-2-3-4-5")
    '000000010000000000000005.1-2-3-4-5'
    """
    return f"{name}.{identified}"


def is_private(path: str) -> bool:
    """Tell whether a directory is this account's own and closed to all others."""
    facts = os.lstat(path)
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077


def _recovering(destination: str) -> str:
    """Return the data directory of the PostgreSQL that asks, "" when it is something else that does.

    PostgreSQL runs restore_command in its data directory. A postmaster that is process 1, as in a container, would
    inherit the helper and take its death for that of a server process: there is none for it.
    """
    if os.path.dirname(destination) != "pg_wal":
        return ""
    if not (os.path.exists("recovery.signal") or os.path.exists("standby.signal")):
        return ""
    return os.getcwd() if postmaster(".") > 1 else ""


def postmaster(data: str) -> int:
    """Return the process that postmaster.pid names, 0 when there is none."""
    try:
        with open(os.path.join(data, "postmaster.pid"), "rb", buffering=0) as file:
            first = file.read(32).partition(b"\n")[0].strip()
    except FileNotFoundError:
        return 0
    return int(first) if first.isdigit() else 0


def lives(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _continues(name: str, destination: str, directory: str) -> bool:
    """Tell whether the segment before `name` lies in the directory, or at the destination itself."""
    within = int(name[16:], 16)
    if within and os.path.exists(os.path.join(directory, f"{name[:16]}{within - 1:08X}")):
        return True
    if not os.path.isfile(destination):
        return False
    try:
        with open(destination, "rb", buffering=0) as file:
            header = walfile.read_header(file.read(walfile.HEADER_SIZE))
    except CellarmanError:
        return False
    size = header.segment_size
    return segment.parse_segment(name, size)[1] == header.address // size + 1


def _place(anchor: str, wals: str) -> str:
    """Return the spool's path: beside the directory, where renaming a segment delivers it; else in TMPDIR."""
    facts = os.stat(anchor)
    name = f"{PREFIX}{facts.st_dev:x}-{facts.st_ino}-{zlib.crc32(os.fsencode(wals)):08x}"
    beside = os.path.dirname(os.path.realpath(anchor))
    if os.access(beside, os.W_OK | os.X_OK):
        return os.path.join(beside, name)
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"{name}-{os.geteuid()}")


def _open_bell(path: str) -> int | None:
    """Return the bell for writing; None when no helper listens, or the directory is not to be trusted."""
    try:
        if not is_private(path):
            return None
        return os.open(os.path.join(path, BELL), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


def _await(ready: str) -> bool:
    """Tell whether a segment is ready, waiting a moment for one that is underway."""
    if os.path.exists(ready):
        return True
    deadline = time.monotonic() + _WAIT
    while os.path.exists(ready + UNDERWAY) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return os.path.exists(ready)


def _is_good(path: str, name: str, system_id: int | None) -> bool:
    """Tell whether a segment's size and header are right; its content was verified when it was written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        facts = os.fstat(descriptor)
        header = walfile.read_header(os.read(descriptor, walfile.HEADER_SIZE))
    except CellarmanError:
        return False
    finally:
        os.close(descriptor)
    return facts.st_nlink == 1 and not walfile.check_segment(name, header, system_id=system_id, size=facts.st_size)


def _move(ready: str, destination: str) -> bool:
    """Move the segment, copying it when the destination is on another file system."""
    if not stat.S_ISREG(os.lstat(ready).st_mode) or (
        os.path.lexists(destination) and not stat.S_ISREG(os.lstat(destination).st_mode)
    ):
        return False
    try:
        os.rename(ready, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(ready, destination)
        os.unlink(ready)
    return True


def _copy(ready: str, destination: str) -> None:
    source = os.open(ready, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sink = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            left = os.fstat(source).st_size
            while left and (sent := os.sendfile(sink, source, None, left)):
                left -= sent
        finally:
            os.close(sink)
    finally:
        os.close(source)
    if left:
        raise OSError(errno.EIO, "the spooled segment became shorter")


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # the one by which they were listed


def _words() -> str:
    """Return what the shell script compares with its own words; "" when it is not what called."""
    if sys.argv[1:3] != ["get", "--guarded"] or any("\n" in word for word in sys.argv):
        return ""
    return f"{' '.join(sys.argv[5:])} {os.environ.get('CELLARMAN_CONFIG', '')}"


def _is_starting(path: str) -> bool:
    """Tell whether a helper was started a moment ago that does not listen yet."""
    try:
        age = time.time() - os.stat(path).st_mtime
    except OSError:
        return False
    return 0 <= age < _START and not os.path.lexists(os.path.join(path, BELL))


def _start(spool: Spool, name: str, system_id: int | None) -> None:
    """Start the helper in a session of its own, with nothing of PostgreSQL's open; it ends at once if one is there.

    Nobody waits for it: `get` ends long before it does.
    """
    try:
        os.mkdir(spool.path, 0o700)
    except FileExistsError:
        pass
    words = [spool.path, spool.layout.home, spool.layout.wals, name, str(system_id or ""), spool.data, _words()]
    if os.fork():
        return
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        for descriptor in os.listdir("/proc/self/fd"):
            if int(descriptor) > 2:
                _close(int(descriptor))
        os.nice(5)
        os.execv(sys.executable, [sys.executable, "-m", "engine.wal.prefetch", *words])
    finally:
        os._exit(127)
