"""The far end of a push over SSH: one WAL file from a stream, durable under the rules of `engine.wal.push`.

The file is taken into a dot-file of incoming/ and measured on the way; only content whose SHA-256 is the announced one
goes on. A stream that is cut, or brings something else, leaves nothing. Light: the WAL client loads this.
"""

from __future__ import annotations

import hashlib
import os
import select

from engine.errors import CellarmanError
from engine.faults import step
from engine.postgres import segment
from engine.repository.files import write_all
from engine.wal import push

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout
    from engine.wal.archive import Duplicate, Stored
    from engine.wal.settings import Settings

SILENCE = 60.0
"""Seconds without a byte after which the sender is given up."""
_PIECE = 1 << 20
_SLACK = 1 << 20
"""Bytes beyond the largest segment that a stream may have before it is refused unread."""


def receive(server: Settings, name: str, sha256: str, stream: int) -> Stored | Duplicate:
    """Return once the file that `stream` brings is durable in the repository. Raises as push.push does.

    `sha256` is the announced checksum in hexadecimal digits; CellarmanError when another content, or a part, came.
    """
    from engine.wal import inspection

    if segment.kind_of(name) == segment.FOREIGN:
        raise inspection.foreign(name)
    try:
        outcome = _take(server, name, sha256.strip().lower(), stream)
    except CellarmanError as error:
        push.note(server.layout, name, f"the file is still pg_wal/{name} on the server's host", error)
        raise
    push.forget(server.layout, name)
    return outcome


def _take(server: Settings, name: str, sha256: str, stream: int) -> Stored | Duplicate:
    arrival = _Arrival(server.layout, name)
    try:
        arrival.fill(stream, sha256)
        step("receipt.filled")
        return _settle(server, arrival, name)
    except OSError as error:
        from engine.wal.archive import failed

        raise failed(server.layout.incoming, name, error) from error
    finally:
        arrival.discard()


def _settle(server: Settings, arrival: _Arrival, name: str) -> Stored | Duplicate:
    """Queue a segment of the archive's own cluster, as push does; archive or compare anything else at once."""
    from engine.repository import files, identity
    from engine.wal import inspection

    layout = server.layout
    system = identity.system_id(layout)
    segmental = segment.kind_of(name) in (segment.SEGMENT, segment.PARTIAL)
    queued = None
    if segmental and system is not None and not os.path.lexists(layout.wal(name)):
        facts = inspection.examine(arrival.source, name, system)
        queued = push.give_name(layout, arrival.temporary, arrival.source, facts)
        step("receipt.linked")
        files.sync_directory(layout.incoming)
        step("receipt.synced")
        if not os.path.lexists(layout.wal(name)):
            return queued
    return push.store(server, arrival.temporary, name, withdraw=queued is not None)


class _Arrival:
    """A dot-file of incoming/ that a stream fills."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._name = name
        self.temporary, self._sink = push.new_sink(layout, name)
        self.source = -1

    def fill(self, stream: int, sha256: str) -> None:
        """Take all of the stream, durably; CellarmanError when it is not what was announced."""
        count, digest = 0, hashlib.sha256()
        silence = select.poll()
        silence.register(stream, select.POLLIN | select.POLLHUP)
        while silence.poll(SILENCE * 1000):
            data = os.read(stream, _PIECE)
            if not data:
                break
            count += len(data)
            if count > segment.MAX_SEGMENT_SIZE + _SLACK:
                raise CellarmanError(f"{self._name} is refused", "more bytes came than any WAL file has")
            digest.update(data)
            write_all(self._sink, data)
        else:
            raise CellarmanError(f"{self._name} did not arrive whole", f"nothing came for {SILENCE:.0f} s")
        if digest.hexdigest() != sha256:
            raise CellarmanError(
                f"{self._name} did not arrive whole",
                f"the {count} bytes that came have SHA-256 {digest.hexdigest()}, {sha256} was announced",
                "PostgreSQL keeps the file and sends it again; when it never succeeds, see what the sender says",
            )
        os.ftruncate(self._sink, count)
        os.fsync(self._sink)
        self.source = os.open(self.temporary, os.O_RDONLY | os.O_CLOEXEC)

    def discard(self) -> None:
        """Remove the dot-file and close it."""
        try:
            os.unlink(self.temporary)
        except FileNotFoundError:
            pass
        for descriptor in (self._sink, self.source):
            if descriptor >= 0:
                os.close(descriptor)
