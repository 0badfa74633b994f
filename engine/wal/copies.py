"""Where else a segment may be: the queues, errors/, an encoded file in the archive, and pg_wal of the running server
and of its standbys.

pg_wal is read as a directory where it lies on this host and may be read, else through SQL with pg_read_binary_file
(src/backend/utils/adt/genfile.c), which a superuser may call, and whoever was granted it, else as a standby would have
it streamed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from engine.config import Server
from engine.errors import CellarmanError
from engine.postgres import connection as pg
from engine.postgres import segment
from engine.postgres.lsn import Lsn
from engine.postgres.walfile import HEADER_SIZE, WalFormatError, read_header
from engine.repository.layout import Layout
from engine.wal import codec
from engine.wal.gaps import Key
from engine.wal.inventory import listed
from engine.wal.judgement.values import Case

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

FUNCTION = "pg_read_binary_file(text, bigint, bigint, boolean)"
_READ = "SELECT pg_catalog.pg_read_binary_file(%s, %s, %s, true)"
_DATA_DIRECTORY = "SELECT current_user::text, (SELECT setting FROM pg_settings WHERE name = 'data_directory')"
_PIECE = 1 << 20
_TIMEOUT = 30
_NOTES = (".reason.txt", ".refused-at-push")


class Copy(NamedTuple):
    """A file that may be the segment; `read` raises CellarmanError and OSError."""

    where: str
    read: Callable[[], bytes]


class NotAllowed(CellarmanError):
    """The role may not read the server's files."""


class Holder:
    """A running server whose pg_wal may have it; one connection, made when it is first needed."""

    def __init__(
        self,
        conninfo: str,
        streaming_conninfo: str,
        held: Mapping[str, int] | None,
        system_id: int | None,
        segment_size: int,
    ) -> None:
        """`held` are the segments in its pg_wal, None when that is not known."""
        self._conninfo, self._streaming_conninfo = conninfo, streaming_conninfo
        self._held, self._system_id, self._segment_size = held, system_id, segment_size
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._directory = ""
        """pg_wal on this host, "" when it is not here."""
        self._role = ""
        self.unreachable: CellarmanError | None = None
        """Why it cannot be asked, once that is known."""

    def close(self) -> None:
        self._stack.close()

    def may_have(self, name: str) -> bool:
        return self._held is None or name in self._held

    def copies(self, key: Key, name: str) -> Iterator[Copy]:
        """Yield the ways to have a segment from it, the quickest first."""
        where = f"pg_wal of {pg.where(self._conninfo)}"
        if not self._reached():
            return
        path = os.path.join(self._directory, name)
        if self._directory and os.access(path, os.R_OK):
            yield Copy(path, lambda: codec.read_segment(path))
            return
        yield Copy(where, lambda: self._by_sql(name))
        if self._streaming_conninfo:
            yield Copy(f"{where}, streamed", lambda: self._streamed(key))

    def _reached(self) -> bool:
        """Connect, once; tell whether it can be asked."""
        if self._connection is None and self.unreachable is None:
            try:
                connection = self._stack.enter_context(pg.connect(self._conninfo, statement_timeout=_TIMEOUT))
                with connection.cursor() as cursor:
                    cursor.execute(_DATA_DIRECTORY)
                    self._role, data = cursor.fetchone() or ("", None)
                self._connection = connection
                self._directory = self._here(data)
            except CellarmanError as error:
                self.unreachable = error
        return self._connection is not None

    def _here(self, data: str | None) -> str:
        """Return its pg_wal when it can be read on this host, and is its own; else ""."""
        directory = os.path.join(data or "", "pg_wal")
        for name in listed(directory) if data else ():
            if segment.kind_of(name) == segment.SEGMENT:
                try:
                    header = read_header(codec.read_head(os.path.join(directory, name), HEADER_SIZE))
                except (WalFormatError, codec.Unreadable, OSError):
                    continue
                if header.system_id == self._system_id:
                    return directory
        return ""

    def _by_sql(self, name: str) -> bytes:
        """Read a file of pg_wal through SQL, piece by piece."""
        from psycopg2 import Error, errors

        assert self._connection is not None
        parts: list[bytes] = []
        try:
            with self._connection.cursor() as cursor:
                while (at := len(parts) * _PIECE) < self._segment_size:
                    cursor.execute(_READ, (f"pg_wal/{name}", at, _PIECE))
                    row = cursor.fetchone()
                    if row is None or row[0] is None:
                        raise CellarmanError(f"{name} is not in pg_wal any more")
                    parts.append(bytes(row[0]))
        except errors.InsufficientPrivilege as error:
            raise NotAllowed(
                f"role {self._role} may not read it",
                str(error).strip().splitlines()[0],
                f"on the server, as a superuser: GRANT EXECUTE ON FUNCTION {FUNCTION} TO {_quoted(self._role)}",
            ) from None
        except Error as error:
            raise CellarmanError(f"{name} could not be read from the server", str(error).strip()) from None
        return b"".join(parts)

    def _streamed(self, key: Key) -> bytes:
        timeline, number = key
        start = Lsn(segment.segment_start(number, self._segment_size))
        return pg.stream_wal(self._streaming_conninfo, timeline, start, self._segment_size, timeout=_TIMEOUT)


class Copies:
    """What may be found beside the archive; a context manager that holds the connections."""

    def __init__(self, server: Server, case: Case) -> None:
        self._case = case
        layout = server.layout
        self._queued = {path: set(listed(path)) for path in (layout.incoming, layout.streaming)}
        self._refused: dict[str, list[str]] = {}
        for name in refused_in(layout):
            self._refused.setdefault(name[:24], []).append(os.path.join(layout.errors, name))
        size = case.archive.segment_size
        self._holders: list[Holder] = []
        if case.live is not None:
            system = case.live.system_id
            self._holders.append(Holder(server.conninfo, server.streaming_conninfo, case.live.pg_wal, system, size))
        for standby in case.standbys:
            conninfo = standby.conninfo
            self._holders.append(Holder(conninfo, conninfo, standby.pg_wal, standby.system_id, size))

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            holder.close()

    @property
    def unreachable(self) -> CellarmanError | None:
        """Why a server that may have it cannot be asked, once that is known."""
        return next((holder.unreachable for holder in self._holders if holder.unreachable is not None), None)

    def certainly_nowhere(self, key: Key, name: str) -> bool:
        """Tell, without asking anybody, that there is no copy."""
        here = (
            name in self._refused or key in self._case.encoded or any(name in queue for queue in self._queued.values())
        )
        return not here and not any(holder.may_have(name) for holder in self._holders)

    def of(self, key: Key, name: str) -> Iterator[Copy]:
        """Yield the copies of a segment, the nearest first."""
        paths = [os.path.join(queue, name) for queue, names in self._queued.items() if name in names]
        paths += [self._case.encoded[key]] if key in self._case.encoded else []
        for path in (*paths, *self._refused.get(name, ())):
            yield Copy(path, lambda path=path: codec.read_segment(path))  # type: ignore[misc]
        for holder in self._holders:
            if holder.may_have(name):
                yield from holder.copies(key, name)


def refused_in(layout: Layout) -> list[str]:
    """Return the names in errors/ of files that were to be segments, and were refused."""
    return [
        name
        for name in listed(layout.errors)
        if segment.kind_of(name[:24]) == segment.SEGMENT and name[24:25] == "." and not name.endswith(_NOTES)
    ]


def _quoted(role: str) -> str:
    doubled = role.replace('"', '""')
    return f'"{doubled}"'
