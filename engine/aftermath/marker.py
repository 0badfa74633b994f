"""The marker: a large object on the server, which any role may make, and a restore point right behind it.

Neither needs a table or a right to create one. What is read back is the large object's content.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.postgres import connection
from engine.postgres.connection import ServerFacts
from engine.postgres.lsn import Lsn
from engine.postgres.segment import segment_before, segment_name

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True, slots=True)
class Marker:
    """What was written, and where in the WAL it is."""

    oid: int
    text: str
    """Also the restore point's name."""
    lsn: Lsn
    """The end of the restore point."""
    segment: str
    """The segment that the restore point ends in, which was ended early after it."""


def facts(link: Connection) -> ServerFacts:
    """Return the server's facts; Refused for a standby, which nothing can be written to."""
    found = connection.server_facts(link)
    if found.in_recovery:
        raise Refused(
            "conninfo leads to a standby",
            "the proof writes a marker, which only the primary takes",
            "name the primary in conninfo, or run the proof from its own server entry",
        )
    return found


def write(link: Connection, found: ServerFacts, stamp: str) -> Marker:
    """Write a marker and end its segment, so that it is delivered."""
    text = f"cellarman-aftermath-{stamp}-{secrets.token_hex(4)}"
    oid = int(_value(link, "SELECT lo_from_bytea(0, convert_to(%s, 'UTF8'))", text))
    try:
        lsn = connection.create_restore_point(link, text)
        connection.switch_wal(link)
    except BaseException:
        remove(link, oid)
        raise
    segment = segment_name(found.timeline, segment_before(int(lsn), found.segment_size), found.segment_size)
    return Marker(oid, text, lsn, segment)


def remove(link: Connection, oid: int) -> None:
    """Remove a marker from the server; nothing happens when it is not there."""
    _value(
        link,
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_largeobject_metadata WHERE oid = %s) THEN lo_unlink(%s) END",
        oid,
        oid,
    )


def read(link: Connection, oid: int) -> str:
    """Return a marker's text."""
    return str(_value(link, "SELECT convert_from(lo_get(%s), 'UTF8')", oid))


@contextlib.contextmanager
def removed_afterwards(server: Server, oid: int) -> Iterator[None]:
    """Remove a marker at the end, over a connection of its own; a server that is gone by then keeps it."""
    try:
        yield
    finally:
        with contextlib.suppress(CellarmanError), connection.connect(server.conninfo) as link:
            remove(link, oid)


def _value(link: Connection, query: str, *arguments: Any) -> Any:
    with link.cursor() as cursor:
        cursor.execute(query, arguments)
        row = cursor.fetchone()
    assert row is not None
    return row[0]
