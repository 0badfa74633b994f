"""archive_command: one file of pg_wal, durable in the repository before PostgreSQL may recycle it.

A segment is copied into incoming/ as it is, and the next pass of ingest compresses and indexes it: compressing takes
longer than writing, and PostgreSQL waits for this. It is copied first of all and synced in a thread, beside the imports
and checks. Histories and labels, and what the archive holds already, go by `archive.store`. No lock is waited for.
Light: the WAL client loads this.
"""

from __future__ import annotations

import _thread
import errno
import os

from engine.errors import CellarmanError
from engine.faults import step
from engine.postgres import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout
    from engine.wal.archive import Duplicate, Stored
    from engine.wal.inspection import Facts
    from engine.wal.settings import Settings

_PIECE = 4 << 20


def push(server: Settings, path: str) -> Stored | Duplicate:
    """Return once the file at `path` is durable in the repository; it stays where it is. Raises as archive.store does.

    A refusal leaves a note in errors/, so that more than PostgreSQL's log tells of it, until the file is taken. The
    file itself is not copied there: PostgreSQL keeps it as long as it is not archived, and comes again every minute.
    """
    name = os.path.basename(path)
    try:
        outcome = _push(server, path, name)
    except CellarmanError as error:
        note(server.layout, name, f"the file is still {os.path.abspath(path)} on the server's host", error)
        raise
    forget(server.layout, name)
    return outcome


def _push(server: Settings, path: str, name: str) -> Stored | Duplicate:
    layout = server.layout
    segmental = segment.kind_of(name) in (segment.SEGMENT, segment.PARTIAL)
    queued = _queue(layout, path, name) if segmental and not os.path.lexists(layout.wal(name)) else None
    if queued is not None and not os.path.lexists(layout.wal(name)):
        return queued
    return store(server, path, name, withdraw=queued is not None)


def store(server: Settings, path: str, name: str, *, withdraw: bool) -> Stored | Duplicate:
    """Archive at once, or compare with what is archived; after a conflict `withdraw` what was queued meanwhile."""
    from engine.wal import archive

    try:
        return archive.store(
            server.layout, path, name, compression=server.compression, level=server.level, wait=server.lock_timeout
        )
    except archive.Conflict:
        if withdraw:
            _unlink(os.path.join(server.layout.incoming, name))
        raise


def _queue(layout: Layout, path: str, name: str) -> Stored | Duplicate | None:
    """Make a segment durable in incoming/; None, and nothing done, while the archive's cluster is not known."""
    copy = _Copy(layout, path, name)
    try:
        try:
            from engine.repository import identity
            from engine.wal import archive, inspection

            system = identity.system_id(layout)
            facts = inspection.examine(copy.source, name, system) if system is not None else None
        finally:
            copy.finish()
        if facts is None:
            return None
        copy.check(facts)
        step("push.copied")
        return _place(layout, copy, facts)
    except OSError as error:
        raise archive.failed(layout.incoming, name, error) from error
    finally:
        copy.discard()


def _place(layout: Layout, copy: _Copy, facts: Facts) -> Stored | Duplicate:
    """Give the copy its name in incoming/, durably."""
    from engine.repository.files import sync_directory

    outcome = give_name(layout, copy.temporary, copy.source, facts)
    step("push.linked")
    copy.discard()
    sync_directory(layout.incoming)
    step("push.synced")
    return outcome


def give_name(layout: Layout, temporary: str, descriptor: int, facts: Facts) -> Stored | Duplicate:
    """Give a synced dot-file its name in incoming/ unless a file of that name waits there; exactly one pusher wins.

    `descriptor` reads the same content. The directory is left to be synced; raises archive.Conflict.
    """
    from engine.repository.files import sync_file
    from engine.wal import archive

    target = os.path.join(layout.incoming, facts.name)
    while True:
        if _link(temporary, target):
            return archive.Stored(facts.name, facts.size, facts.size)
        try:
            if archive.holds(target, descriptor, facts):
                sync_file(target)
                return archive.Duplicate(facts.name)
            os.rename(temporary, target)
            return archive.Stored(facts.name, facts.size, facts.size)
        except FileNotFoundError:
            continue  # a pass took it away in this moment


def _link(temporary: str, target: str) -> bool:
    """Give a file its name unless there is one of that name; tell whether it has it now."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if os.path.lexists(target):
            return False
        os.rename(temporary, target)  # a file system without hard links
    return True


class _Copy:
    """A copy of a file in a dot-file of incoming/, and a thread that syncs it."""

    def __init__(self, layout: Layout, path: str, name: str) -> None:
        try:
            self.source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CellarmanError(f"cannot read {path}", str(error)) from error
        self._before = os.fstat(self.source)
        try:
            self.temporary, self._sink = new_sink(layout, name, self._before.st_size)
        except BaseException:
            os.close(self.source)
            raise
        self._error: OSError | None = None
        self._copied = 0
        self._done = _thread.allocate_lock()
        self._done.acquire()
        try:
            self._write()
            os.fchmod(self._sink, self._before.st_mode & 0o777)
            os.utime(self._sink, ns=(self._before.st_mtime_ns, self._before.st_mtime_ns))
        except OSError as error:
            self._error = error
            self._done.release()
        else:
            _thread.start_new_thread(self._sync, ())

    def _sync(self) -> None:
        try:
            os.fsync(self._sink)
        except OSError as error:
            self._error = error
        finally:
            self._done.release()

    def _write(self) -> None:
        """Copy piece by piece, having the kernel write each out while the next is copied.

        With the room taken beforehand the sync has less to do: a seventh of the time.
        """
        from engine.repository.files import write_out

        size = self._before.st_size
        _take_room(self._sink, size)
        while self._copied < size:
            count = self._piece(min(_PIECE, size - self._copied))
            if not count:
                return
            write_out(self._sink, self._copied, count)
            self._copied += count

    def _piece(self, count: int) -> int:
        try:
            return os.copy_file_range(self.source, self._sink, count)
        except OSError:
            # Between some file systems the kernel cannot; what truly fails fails again here.
            data = os.read(self.source, count)
            return os.write(self._sink, data) if data else 0

    def finish(self) -> None:
        """Wait for the thread."""
        self._done.acquire()
        self._done.release()

    def check(self, facts: Facts) -> None:
        """Raise what went wrong in the thread, or CellarmanError when the source did not hold still."""
        if self._error is not None:
            raise self._error
        now = os.fstat(self.source)
        if (self._copied, now.st_size, now.st_mtime_ns) != (facts.size, facts.size, facts.mtime_ns):
            raise CellarmanError(f"{facts.name} changed while it was read", "somebody is still writing it")

    def discard(self) -> None:
        """Remove the dot-file and close both files; a second call does nothing."""
        if self._sink < 0:
            return
        _unlink(self.temporary)
        if self.source >= 0:
            os.close(self.source)
        os.close(self._sink)
        self._sink = self.source = -1


def new_sink(layout: Layout, name: str, size: int | None = None) -> tuple[str, int]:
    """Return a dot-file of incoming/ to fill, as new_temporary does: for a segment an old one of `size`, if there is.

    With `size` None it can have any, and is to be cut to the new content's.
    """
    from engine.wal import recycled
    from engine.wal.temporary import new_temporary

    old = recycled.take(layout, name, size) if segment.kind_of(name) in (segment.SEGMENT, segment.PARTIAL) else None
    return old or new_temporary(layout.incoming, layout.name, name)


def _take_room(descriptor: int, size: int) -> None:
    """Have a file's room taken; some file systems cannot."""
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _note_path(layout: Layout, name: str) -> str:
    return os.path.join(layout.errors, f"{os.fsdecode(os.fsencode(name)[:200])}.refused-at-push")


def note(layout: Layout, name: str, kept: str, error: CellarmanError) -> None:
    """Leave a note in errors/ when the file was refused, and none when the archive just cannot take it now.

    `kept` says where the refused file is.
    """
    from engine.errors import one_a_line
    from engine.wal import refusal

    if not isinstance(error, refusal.WalRefused):
        return
    told = type(error)(error.what, error.why, one_a_line([error.fix, kept]))
    try:
        refusal.note(_note_path(layout, name), told)
    except OSError as failed:
        error.why += f"\n(no note could be left in {layout.errors}: {failed})"


def forget(layout: Layout, name: str) -> None:
    """Remove the note of an earlier refusal."""
    try:
        os.unlink(_note_path(layout, name))
    except OSError:
        pass
