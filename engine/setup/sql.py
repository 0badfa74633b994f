"""What PostgreSQL needs: roles, grants, settings, the slot. Pure: facts in, pieces out."""

from __future__ import annotations

from engine.check.access import logins
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.pace import LONGEST_EXPOSURE, exposure
from engine.postgres.quoting import ident, literal
from engine.setup.piece import Piece, found

_NO_ROLE = "does not exist"
_ROLES = ("pg_read_all_settings", "pg_read_all_stats")
_FUNCTIONS = ("pg_switch_wal()", "pg_create_restore_point(text)")
_COPY = ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
_COPY_BEFORE_15 = ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
_SEES_HBA = ("GRANT SELECT ON pg_hba_file_rules TO {role};", "GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO {role};")


def replicates(facts: Facts) -> bool:
    """Tell whether this server is asked for replication connections."""
    return facts.server.backup_method == "postgres" or facts.server.streaming_archiver


def host_of(facts: Facts) -> str:
    """Return how people call the server's host."""
    logged = logins(facts)
    named = logged[0].host if logged else "the server"
    return facts.server.ssh.host if facts.server.ssh and facts.server.ssh.host else named


def superuser(facts: Facts) -> str:
    return f"on {host_of(facts)}, in psql as a superuser"


def roles(facts: Facts) -> list[Piece]:
    """The roles that log in; psql asks for their passwords, so that none is in a command or the server's log."""
    named = logins(facts)
    if not named:
        return []
    pieces = [_role(facts, named[0].user, facts.live, "")]
    if replicates(facts):
        if named[1].user == named[0].user:
            text = f"ALTER ROLE {ident(named[0].user)} REPLICATION;"
            may = None if isinstance(facts.live, Unknown) else facts.live.facts.replication
            return [*pieces, Piece(f"replication by {named[0].user}", superuser(facts), text, "sql", found(may))]
        pieces.append(_role(facts, named[1].user, facts.streaming, " REPLICATION"))
    return pieces


def _role(facts: Facts, name: str, source: object, more: str) -> Piece:
    truth: bool | None = not isinstance(source, Unknown)
    note = ""
    if isinstance(source, Unknown):
        truth = False if _NO_ROLE in source.what and name in source.what else None
        note = "" if truth is False else f"not known: {source.what}"
    text = f"CREATE ROLE {ident(name)} LOGIN{more};\n\\password {ident(name)}"
    return Piece(f"role {name}", superuser(facts), text, "sql", found(truth), note)


def grants(facts: Facts) -> list[Piece]:
    """The rights of the role that is not a superuser."""
    named = logins(facts)
    if not named:
        return []
    role = ident(named[0].user)
    copies = facts.server.backup_method != "postgres"
    old = isinstance(facts.live, Live) and facts.live.facts.major < 15
    functions = _FUNCTIONS + ((_COPY_BEFORE_15 if old else _COPY) if copies else ())
    lines = [f"GRANT {name} TO {role};" for name in _ROLES]
    lines += [f"GRANT EXECUTE ON FUNCTION {function} TO {role};" for function in functions]
    lines += [line.format(role=role) for line in _SEES_HBA]
    if facts.server.backup_method == "postgres" and named[1].user != named[0].user:
        lines.append(f"GRANT {ident(named[1].user)} TO {role};  -- to end a cancelled backup at once")
    truth, note = None, ""
    if isinstance(facts.live, Live):
        missing = facts.live.facts.missing_privileges + (facts.live.facts.missing_for_copy if copies else ())
        truth = not missing
        note = (
            f"missing: {'; '.join(missing)}" if missing else "it is a superuser" if facts.live.facts.superuser else ""
        )
    return [Piece(f"rights of {named[0].user}", superuser(facts), "\n".join(lines), "sql", found(truth), note)]


def settings(facts: Facts) -> list[Piece]:
    """What postgresql.conf must say; archive_command is a piece of its own."""
    live, server = facts.live, facts.server
    lines, wrong = ["wal_level = replica"], []
    senders = 2 * int(replicates(facts)) + int(server.streaming_archiver)
    if isinstance(live, Live) and live.facts.wal_level == "minimal":
        wrong.append("wal_level is minimal (restart)")
    if senders:
        lines += ["max_wal_senders = 10", "max_replication_slots = 10"]
        if isinstance(live, Live) and live.facts.max_wal_senders - live.facts.wal_senders_used < senders - 1:
            wrong.append(f"max_wal_senders is {live.facts.max_wal_senders}, all in use (restart)")
        if isinstance(live, Live) and live.slot is None and server.streaming_archiver:
            free = live.facts.max_replication_slots - live.facts.replication_slots_used
            wrong += [] if free else ["no replication slot is free: raise max_replication_slots (restart)"]
    if server.archiver:
        lines.append("archive_mode = on")
        if isinstance(live, Live) and live.facts.archive_mode == "off":
            wrong.append("archive_mode is off (restart)")
    if server.archiver and not server.streaming_archiver:
        lines.append("archive_timeout = 5min")
        held = exposure(live) if isinstance(live, Live) else 0.0
        if held is None or held > LONGEST_EXPOSURE:
            wrong.append("archive_timeout does not bound what a lost server costs (reload)")
    truth = None if isinstance(live, Unknown) else not wrong
    where = f"on {host_of(facts)}, in postgresql.conf"
    return [Piece("settings", where, "\n".join(lines), "text", found(truth), "; ".join(wrong))]


def slot(facts: Facts) -> list[Piece]:
    """The replication slot, which keeps WAL on the server until it is received."""
    server = facts.server
    if not server.streaming_archiver:
        return []
    truth = None if isinstance(facts.live, Unknown) else facts.live.slot is not None
    note = "it makes the server keep WAL while this host is away: a limit is max_slot_wal_keep_size"
    if server.create_slot == "auto":
        note = f"made by itself when the receiver starts; {note}"
    text = f"SELECT pg_create_physical_replication_slot({literal(server.slot_name)}, true);"
    return [Piece(f"slot {server.slot_name}", superuser(facts), text, "sql", found(truth), note)]
