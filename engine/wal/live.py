"""What a running server tells about its own WAL: how far it wrote, what it archived, and what it still holds.

What the role may not see is None, and a sentence in `unknown` says so. Sources: pg_ls_waldir, pg_ls_archive_statusdir
(src/backend/utils/adt/genfile.c), pg_stat_archiver, pg_replication_slots, TIMELINE_HISTORY of the replication protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from engine.config import Server
from engine.errors import CellarmanError
from engine.postgres import connection as pg
from engine.postgres import segment
from engine.postgres.facts import ARCHIVER, RECEIVED_TIMELINE, Archiver
from engine.postgres.lsn import Lsn
from engine.postgres.timeline import Switch, parse_history

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

TIMEOUT = 5
"""Seconds to connect, and for one statement."""
_MOST_HISTORIES = 32
"""Histories that are compared with the server's; a server promoted more often than that is asked for its newest."""

_POSITION = """
SELECT system_identifier, pg_size_bytes(current_setting('wal_segment_size')), pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END,
       (SELECT timeline_id FROM pg_control_checkpoint()),
       current_setting('archive_mode'), (SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout')
  FROM pg_control_system()
"""
HELD = "SELECT name, size FROM pg_ls_waldir()"
_STATUS = "SELECT name, modification FROM pg_ls_archive_statusdir()"
_SLOTS = """
SELECT slot_name::text, slot_type, active, active_pid, restart_lsn::text, wal_status, temporary
  FROM pg_replication_slots
"""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Live:
    """A running server's word about its WAL."""

    system_id: int
    segment_size: int
    timeline: int
    in_recovery: bool
    write_lsn: Lsn | None
    """What is written on a primary, received or replayed on a standby."""
    archiving: bool
    """Whether this server archives by itself, as it stands now."""
    archive_timeout: int
    """Seconds; 0 is never."""
    archiver: Archiver
    ready: Mapping[str, datetime] | None = None
    """Names that wait to be archived, and since when."""
    done: frozenset[str] | None = None
    """Names in pg_wal that were archived, as archive_command said."""
    pg_wal: Mapping[str, int] | None = None
    """Names of the segments in pg_wal, with their bytes."""
    slots: tuple[pg.Slot, ...] | None = None
    histories: Mapping[int, tuple[Switch, ...]] = field(default_factory=dict)
    """Those of the server's own histories that could be had."""
    unknown: tuple[str, ...] = ()

    @property
    def written(self) -> int | None:
        """The last segment that holds WAL."""
        return None if not self.write_lsn else segment.segment_before(self.write_lsn, self.segment_size)

    @property
    def writing(self) -> int | None:
        """The segment that is not full yet; None when the position is on a segment's border."""
        if not self.write_lsn or self.write_lsn % self.segment_size == 0:
            return None
        return segment.segment_of(self.write_lsn, self.segment_size)

    @property
    def last_archived(self) -> int | None:
        """The number of the newest segment that archive_command took, None when there is none or it is no segment."""
        name = self.archiver.last_archived_wal or ""
        try:
            return segment.parse_segment(name, self.segment_size)[1]
        except ValueError:
            return None

    def slot(self, name: str) -> pg.Slot | None:
        return next((slot for slot in self.slots or () if slot.name == name), None)


def look(server: Server, timelines: Iterable[int] = ()) -> Live:
    """Ask a running server, within seconds; `timelines` are those whose histories are compared.

    Raises CellarmanError when it cannot be reached or does not answer.
    """
    with pg.connect(server.conninfo, timeout=TIMEOUT, statement_timeout=TIMEOUT) as connection:
        live = _ask(connection)
    wanted = sorted({t for t in (*timelines, live.timeline) if t > 1})[-_MOST_HISTORIES:]
    if not wanted or not server.streaming_conninfo:
        return live
    from dataclasses import replace

    try:
        found = pg.timeline_histories(server.streaming_conninfo, wanted, timeout=TIMEOUT)
    except CellarmanError as error:
        return replace(live, unknown=(*live.unknown, f"the server's own histories could not be read: {error}"))
    histories, unknown = {}, list(live.unknown)
    for timeline, text in found.items():
        try:
            histories[timeline] = parse_history(timeline, text)
        except ValueError as error:
            unknown.append(f"the server's own history of timeline {timeline} cannot be read: {error}")
    return replace(live, histories=histories, unknown=tuple(unknown))


def _ask(connection: Connection) -> Live:
    system, size, in_recovery, lsn, walfile, checkpoint_timeline, mode, timeout = rows_of(connection, _POSITION)[0]
    timeline = int(walfile[:8], 16) if walfile else checkpoint_timeline
    unknown: list[str] = []
    if in_recovery:
        received = allowed(connection, RECEIVED_TIMELINE, unknown, "the timeline that the standby receives")
        timeline = (received[0][0] if received else None) or timeline
    wal = allowed(connection, HELD, unknown, "what pg_wal holds")
    status = None
    if connection.server_version >= 120000:
        status = allowed(connection, _STATUS, unknown, "which files wait to be archived")
    slots = None
    if connection.server_version >= 130000:
        slots = allowed(connection, _SLOTS, unknown, "the replication slots")
    return Live(
        system_id=system & 0xFFFF_FFFF_FFFF_FFFF,
        segment_size=size,
        timeline=timeline,
        in_recovery=in_recovery,
        write_lsn=Lsn.parse(lsn) if lsn else None,
        archiving=mode == "always" or (mode == "on" and not in_recovery),
        archive_timeout=timeout,
        archiver=Archiver(*rows_of(connection, ARCHIVER)[0]),
        ready=_map(status, lambda rows: {name[:-6]: at for name, at in rows if name.endswith(".ready")}),
        done=_map(status, lambda rows: frozenset(name[:-5] for name, _ in rows if name.endswith(".done"))),
        pg_wal=_map(wal, segments_of),
        slots=_map(slots, lambda rows: tuple(_slot(row) for row in rows)),
        unknown=tuple(unknown),
    )


def segments_of(rows: list[tuple[Any, ...]]) -> dict[str, int]:
    """Return the names and bytes of the segments among the files of a pg_wal."""
    return {name: size for name, size in rows if segment.kind_of(name) == segment.SEGMENT}


def _slot(row: tuple[Any, ...]) -> pg.Slot:
    return pg.Slot(row[0], row[1], row[2], row[3], Lsn.parse(row[4]) if row[4] else None, row[5], row[6])


def _map(rows: list[tuple[Any, ...]] | None, make: Callable[[list[tuple[Any, ...]]], _Answer]) -> _Answer | None:
    return None if rows is None else make(rows)


def allowed(connection: Connection, query: str, unknown: list[str], what: str) -> list[tuple[Any, ...]] | None:
    """Return the rows; None, and a sentence in `unknown`, when the role may not ask or the answer takes too long."""
    from psycopg2 import errors

    try:
        return rows_of(connection, query)
    except (errors.InsufficientPrivilege, errors.QueryCanceled, errors.UndefinedFile) as error:
        unknown.append(f"{what}: {str(error).strip().splitlines()[0]} (GRANT pg_monitor to the role of conninfo)")
        return None


def rows_of(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """Return what a query answers."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()
