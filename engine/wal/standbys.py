"""What a server's standbys still hold of its WAL: each has a pg_wal of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.config import Server
from engine.errors import CellarmanError
from engine.postgres import connection as pg
from engine.wal import live

_IDENTITY = """
SELECT system_identifier, pg_size_bytes(current_setting('wal_segment_size')) FROM pg_control_system()
"""


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby that answered, and is of the server's own system."""

    conninfo: str
    system_id: int
    segment_size: int
    pg_wal: Mapping[str, int] | None
    """Names of the segments in its pg_wal, with their bytes; None when its role may not list them."""


def look(server: Server, system_id: int | None) -> tuple[tuple[Standby, ...], list[str]]:
    """Ask the standbys, each within seconds; also return what they did not tell, a sentence each."""
    found: list[Standby] = []
    unknown: list[str] = []
    for conninfo in server.standby_conninfo:
        try:
            with pg.connect(conninfo, timeout=live.TIMEOUT, statement_timeout=live.TIMEOUT) as connection:
                system, size = live.rows_of(connection, _IDENTITY)[0]
                held = live.allowed(connection, live.HELD, unknown, f"what pg_wal of {pg.where(conninfo)} holds")
        except CellarmanError as error:
            unknown.append(f"a standby could not be asked: {error}")
            continue
        system &= 0xFFFF_FFFF_FFFF_FFFF
        if system_id is not None and system != system_id:
            unknown.append(f"the standby {pg.where(conninfo)} is of another system, {system}: it was not looked into")
            continue
        found.append(Standby(conninfo, system, size, None if held is None else live.segments_of(held)))
    return tuple(found), unknown
