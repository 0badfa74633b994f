"""What must be true before a backup is begun; nothing is made until all of it is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import amounts
from engine.backup import basebackup
from engine.backup.basebackup import Shape
from engine.commands import cellarman
from engine.config import Server
from engine.errors import Advice, Refused
from engine.event import Reporter
from engine.oserrors import advice
from engine.postgres import connection, programs
from engine.postgres.facts import ServerFacts, server_facts
from engine.postgres.programs import Program
from engine.repository import identity
from engine.repository.layout import Layout
from engine.wal import receiver

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

HEADROOM = 64 << 20
"""Bytes that must be free beyond the backup itself: its WAL and the catalogue's own files."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a backup of the server will be made with."""

    facts: ServerFacts
    program: Program
    shape: Shape


def examine(server: Server, report: Reporter) -> Ready:
    """Return what the backup needs; raises Refused, or CellarmanError when the server does not answer."""
    shape = _shape(server)
    facts = server_side(server, report)
    senders(server, facts, wanted=1)
    program = programs.find("pg_basebackup", server.path_prefix, facts.major)
    _streaming(server, facts)
    _compression(server, shape, program)
    _space(server, facts, shape, report)
    return Ready(facts, program, shape)


def table(server: Server) -> str:
    """Return the server's table in the configuration, as it is written there."""
    return f"[servers.{server.name}]"


def server_side(server: Server, report: Reporter) -> ServerFacts:
    """Return the server's facts when a backup by any method could be taken; raises Refused when none could."""
    _configured(server)
    writable(server.layout)
    with connection.connect(server.conninfo, timeout=server.check_timeout) as conn:
        facts = server_facts(conn)
        _able(server, facts)
        _same_cluster(server, facts)
        _slot(server, facts, conn)
    _archiving(server, facts, report)
    return facts


def _configured(server: Server) -> None:
    if not server.active:
        raise Refused(
            f"{server.name} is not backed up", "it has active = false", f"set active = true in {table(server)}"
        )
    if not server.conninfo:
        raise Refused(
            f"{server.name} has no conninfo",
            fix=f'set conninfo = "host=… user=… dbname=postgres" in {table(server)}',
        )
    if not server.archiver and not server.streaming_archiver:
        raise Refused(
            f"no WAL of {server.name} can arrive, and a backup without its WAL cannot be restored",
            "archiver and streaming_archiver are both off",
            Advice(
                f"set streaming_archiver = true in {table(server)}, or archiver = true and the archive_command that"
                " this prints: ",
                cellarman("setup", server.name),
            ),
        )


def _shape(server: Server) -> Shape:
    shape = basebackup.shape_of(server)
    if not shape.tar and shape.codec != "none" and shape.location == "client":
        raise Refused(
            f"{server.name}: a plain backup cannot be compressed by the client",
            "pg_basebackup compresses only tar files by itself",
            'set backup_compression_format = "tar" or backup_compression_location = "server" in ' + table(server),
        )
    return shape


def writable(layout: Layout) -> None:
    """Raise Refused unless the backup's directories can be written, or made."""
    for path in (layout.base, layout.meta, layout.wals, layout.locks):
        existing = path
        while not os.path.lexists(existing) and existing != os.path.dirname(existing):
            existing = os.path.dirname(existing)
        if os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK):
            continue
        read_only = os.path.exists(existing) and os.statvfs(existing).f_flag & os.ST_RDONLY
        why = "its file system is mounted read-only" if read_only else f"{existing} cannot be written by this account"
        fix = advice(errno.EROFS if read_only else errno.EACCES, existing)
        raise Refused(f"the repository cannot be written: {path}", why, fix)


def _able(server: Server, facts: ServerFacts) -> None:
    if facts.wal_level == "minimal":
        raise Refused(
            f"{server.name} writes too little WAL for a backup",
            "wal_level is minimal",
            "ALTER SYSTEM SET wal_level = replica; then restart the server",
        )
    if facts.missing_privileges:
        raise Refused(
            f"the role {facts.role} may not do what a backup of {server.name} needs",
            "it is no superuser and lacks these rights",
            "as a superuser: " + "; ".join(facts.missing_privileges),
        )


def _same_cluster(server: Server, facts: ServerFacts) -> None:
    known = identity.system_id(server.layout)
    if known is not None and known != facts.system_id:
        raise Refused(
            f"{server.name} is another cluster than the one this repository belongs to",
            f"its system identifier is {facts.system_id}, {server.layout.identity} says {known}",
            "correct conninfo; or, for a cluster that was made anew, give it a server name of its own",
        )


def _slot(server: Server, facts: ServerFacts, conn: Connection) -> None:
    if not server.streaming_archiver or not server.slot_name:
        return
    found = connection.slot(conn, server.slot_name)
    if found is None:
        if server.create_slot != "auto":
            raise Refused(
                f"the replication slot {server.slot_name} is not there",
                'create_slot is "manual"',
                f"SELECT pg_create_physical_replication_slot('{server.slot_name}', true)",
            )
        if facts.replication_slots_used >= facts.max_replication_slots:
            raise Refused(
                f"the replication slot {server.slot_name} cannot be made",
                f"all {facts.max_replication_slots} slots of the server are in use",
                "drop a slot that is not needed, or raise max_replication_slots and restart the server",
            )
    elif found.kind != "physical":
        raise Refused(f"the slot {server.slot_name} is a {found.kind} one", "", "name another slot in slot_name")
    elif found.wal_status == "lost":
        raise Refused(
            f"the replication slot {server.slot_name} has lost WAL",
            "the server removed WAL that it still needed (max_slot_wal_keep_size)",
            Advice(
                f"SELECT pg_drop_replication_slot('{server.slot_name}'); then this makes it anew: ", cellarman("cron")
            ),
        )


def _archiving(server: Server, facts: ServerFacts, report: Reporter) -> None:
    if not server.archiver:
        return
    setup = cellarman("setup", server.name)
    if not server.streaming_archiver:
        if facts.archive_mode == "off":
            raise Refused(
                f"no WAL of {server.name} would arrive, and a backup without its WAL cannot be restored",
                "archive_mode is off on the server, and streaming_archiver is off here",
                Advice(
                    "set archive_mode = on and the archive_command that this prints: ",
                    setup,
                    "; and restart the server; or set streaming_archiver = true",
                ),
            )
        if facts.archive_command == "" and not facts.archive_library:
            fix = Advice("set the one that this prints: ", setup)
            raise Refused(f"{server.name} does not archive its WAL", "archive_command is empty", fix)
    archiver = facts.archiver
    if facts.archive_mode != "off" and archiver.failing:
        report.note(
            f"the server's archive_command fails: {archiver.last_failed_wal} at {archiver.last_failed_time}", "warn"
        )


def senders(server: Server, facts: ServerFacts, *, wanted: int) -> None:
    """Raise Refused unless the server has room for that many more WAL senders, and for the receiver's."""
    needed = wanted
    if server.streaming_archiver and receiver.alive(server.layout) is None:
        needed += 1
    free = facts.max_wal_senders - facts.wal_senders_used
    if free < needed:
        raise Refused(
            f"{server.name} has too few free WAL senders",
            f"{facts.wal_senders_used} of max_wal_senders = {facts.max_wal_senders} are in use, {needed} more needed",
            "raise max_wal_senders and restart the server, or end a replication connection that is not needed",
        )


def _streaming(server: Server, facts: ServerFacts) -> None:
    """Prove the right to stream, and that both connection strings lead to one cluster."""
    found = connection.identify_system(server.streaming_conninfo, timeout=server.check_timeout)
    if found.system_id != facts.system_id:
        raise Refused(
            f"conninfo and streaming_conninfo of {server.name} lead to different clusters",
            f"their system identifiers are {facts.system_id} and {found.system_id}",
            f"correct them in [servers.{server.name}]",
        )


def _compression(server: Server, shape: Shape, program: Program) -> None:
    if shape.location == "client":
        reason = programs.supports(program, shape.codec)
        other = 'backup_compression_location = "server"'
    else:
        reason = connection.server_compression(server.streaming_conninfo, shape.codec, timeout=server.check_timeout)
        other = 'backup_compression_location = "client"'
    if reason:
        raise Refused(
            f"{shape.codec} cannot be used for a backup of {server.name}: the {shape.location} cannot compress with it",
            reason,
            f'set another backup_compression ("gzip", "lz4", "zstd", "none"), or {other}, in [servers.{server.name}]',
        )


def _space(server: Server, facts: ServerFacts, shape: Shape, report: Reporter) -> None:
    """Refuse a backup that cannot fit; a compressed one cannot be foretold, so there only a warning is given."""
    compressed = shape.tar and shape.codec != "none"
    size = facts.cluster_size or 0
    free = room(server, HEADROOM + (0 if compressed else size))
    if compressed and free < size:
        report.note(
            f"{amounts.size(free)} are free; the backup fits only if {amounts.size(size)} shrink to that", "warn"
        )


def room(server: Server, need: int) -> int:
    """Return the bytes that are free where backups go; raises Refused when they are fewer than `need`."""
    base = server.layout.base
    while not os.path.isdir(base):
        base = os.path.dirname(base)
    stat = os.statvfs(base)
    free = stat.f_bavail * stat.f_frsize
    if free < need:
        raise Refused(
            f"the repository has too little room for a backup of {server.name}",
            f"{amounts.size(free)} are free on the file system of {base}, {amounts.size(need)} are needed",
            Advice(
                cellarman("backups", server.name),
                "; then delete what is not needed, or give it a larger file system",
            ),
        )
    return free
