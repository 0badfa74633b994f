"""Where else a segment may be: the queues, errors/, an encoded file in the archive, and pg_wal of the running server.

pg_wal is read as a directory where it lies on this host and may be read, else through SQL with pg_read_binary_file
(src/backend/utils/adt/genfile.c), which a superuser may call, and whoever was granted it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from engine.config import Server
from engine.errors import CellarmanError
from engine.postgres import connection as pg
from engine.postgres import segment
from engine.postgres.walfile import HEADER_SIZE, WalFormatError, read_header
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


class Copies:
    """What may be found beside the archive; a context manager that holds one connection to the server."""

    def __init__(self, server: Server, case: Case) -> None:
        self._server, self._case = server, case
        layout = server.layout
        self._queued = {path: set(listed(path)) for path in (layout.incoming, layout.streaming)}
        self._refused: dict[str, list[str]] = {}
        for name in listed(layout.errors):
            if segment.kind_of(name[:24]) == segment.SEGMENT and name[24:25] == "." and not name.endswith(_NOTES):
                self._refused.setdefault(name[:24], []).append(os.path.join(layout.errors, name))
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._directory: str | None = None
        """pg_wal on this host, "" when it is not here."""
        self._role = ""
        self.unreachable: CellarmanError | None = None
        """Why the server cannot be asked, once that is known."""

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def certainly_nowhere(self, key: Key, name: str) -> bool:
        """Tell, without asking anybody, that there is no copy."""
        here = (
            name in self._refused or key in self._case.encoded or any(name in queue for queue in self._queued.values())
        )
        return not here and not self._may_be_on_server(name)

    def _may_be_on_server(self, name: str) -> bool:
        live = self._case.live
        return live is not None and (live.pg_wal is None or name in live.pg_wal)

    def of(self, key: Key, name: str) -> Iterator[Copy]:
        """Yield the copies of a segment, the nearest first."""
        paths = [os.path.join(queue, name) for queue, names in self._queued.items() if name in names]
        paths += [self._case.encoded[key]] if key in self._case.encoded else []
        for path in (*paths, *self._refused.get(name, ())):
            yield Copy(path, lambda path=path: codec.read_segment(path))  # type: ignore[misc]
        if self._may_be_on_server(name) and self._reached():
            if self._directory and os.access(os.path.join(self._directory, name), os.R_OK):
                path = os.path.join(self._directory, name)
                yield Copy(path, lambda: codec.read_segment(path))
            else:
                yield Copy(f"pg_wal of {pg.where(self._server.conninfo)}", lambda: self._from_server(name))

    def _reached(self) -> bool:
        """Connect, once; tell whether the server can be asked."""
        if self._connection is None and self.unreachable is None:
            try:
                connection = self._stack.enter_context(pg.connect(self._server.conninfo, statement_timeout=_TIMEOUT))
                with connection.cursor() as cursor:
                    cursor.execute(_DATA_DIRECTORY)
                    self._role, data = cursor.fetchone() or ("", None)
                self._connection = connection
                self._directory = self._here(data)
            except CellarmanError as error:
                self.unreachable = error
        return self._connection is not None

    def _here(self, data: str | None) -> str:
        """Return the server's pg_wal when it can be read on this host, and is the server's own; else ""."""
        directory = os.path.join(data or "", "pg_wal")
        system = self._case.live.system_id if self._case.live else None
        for name in listed(directory) if data else ():
            if segment.kind_of(name) == segment.SEGMENT:
                try:
                    if read_header(codec.read_head(os.path.join(directory, name), HEADER_SIZE)).system_id == system:
                        return directory
                except (WalFormatError, codec.Unreadable, OSError):
                    continue
        return ""

    def _from_server(self, name: str) -> bytes:
        """Read a file of pg_wal through SQL, piece by piece."""
        from psycopg2 import Error, errors

        assert self._connection is not None
        parts: list[bytes] = []
        size = self._case.archive.segment_size
        try:
            with self._connection.cursor() as cursor:
                while (at := len(parts) * _PIECE) < size:
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


def _quoted(role: str) -> str:
    doubled = role.replace('"', '""')
    return f'"{doubled}"'
