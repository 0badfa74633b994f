"""What must be true of the running server so that it can be backed up. Pure: facts in, result out."""

from __future__ import annotations

import shlex

from engine.check.account import account
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.result import CheckResult, fail, ok, skip, warn
from engine.postgres import dsn
from engine.postgres.quoting import ident

OLDEST_MAJOR = 13
"""The oldest PostgreSQL whose slots tell what they still hold (wal_status), which every promise here leans on."""
SKEW_LIMIT = 1.0
"""Seconds that two clocks may differ: backup ids, ages and the exposure are reckoned with ours."""
UNREACHED = "PostgreSQL was not reached"


def connection(facts: Facts) -> CheckResult:
    name = "PostgreSQL"
    if isinstance(facts.live, Live):
        found = facts.live.facts
        role = "standby" if found.in_recovery else "primary"
        return ok(name, f"{found.version}, {role}, timeline {found.timeline}")
    if not facts.server.active:
        return skip(name, facts.live.what)
    return fail(name, facts.live.what, facts.live.fix or f'conninfo = "..." in [servers.{facts.server.name}]')


def version(facts: Facts) -> CheckResult:
    name = "version"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    major = facts.live.facts.major
    if major < OLDEST_MAJOR:
        return fail(name, f"PostgreSQL {major} is too old", f"upgrade the server to PostgreSQL {OLDEST_MAJOR} or newer")
    return ok(name, f"PostgreSQL {major}")


def privileges(facts: Facts) -> CheckResult:
    name = "privileges"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    found = facts.live.facts
    missing = list(found.missing_privileges)
    if facts.server.backup_method != "postgres":
        missing += found.missing_for_copy
    if missing:
        return fail(
            name,
            f"role {found.role} lacks {len(missing)} of the rights it needs",
            "\n".join(("-- in psql, as a superuser:", *(f"{statement};" for statement in missing))),
        )
    return ok(name, f"role {found.role}" + (", a superuser" if found.superuser else " has what it needs"))


def streaming(facts: Facts) -> CheckResult:
    """A replication connection proves the REPLICATION right, the pg_hba.conf line and a free WAL sender at once."""
    name = "replication connection"
    if not isinstance(facts.streaming, Unknown):
        return ok(name, f"timeline {facts.streaming.timeline}, at {facts.streaming.lsn}")
    server = facts.server
    if not server.active:
        return skip(name, facts.streaming.what)
    if server.backup_method != "postgres" and not server.streaming_archiver:
        return skip(name, "neither backups nor WAL use one")
    if isinstance(facts.live, Unknown) and server.streaming_conninfo in ("", server.conninfo):
        return skip(name, UNREACHED)
    fix = facts.streaming.fix
    if "replication role" in facts.streaming.what or "WAL sender" in facts.streaming.what:
        fix = f"ALTER ROLE {ident(streaming_role(facts))} REPLICATION;  -- in psql, as a superuser"
    return fail(name, facts.streaming.what, fix)


def streaming_role(facts: Facts) -> str:
    """Return the role that opens replication connections: the one named, else ours as libpq would have it."""
    server = facts.server
    try:
        said = dsn.parse(server.streaming_conninfo or server.conninfo).get("user")
    except ValueError:
        said = None
    return said or account()


def wal_level(facts: Facts) -> CheckResult:
    name = "wal_level"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    level = facts.live.facts.wal_level
    if level == "minimal":
        fix = "ALTER SYSTEM SET wal_level = 'replica';  -- then restart PostgreSQL"
        return fail(name, "minimal: its WAL cannot restore a backup", fix)
    return ok(name, level)


def wal_senders(facts: Facts) -> CheckResult:
    name = "WAL senders"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    found = facts.live.facts
    need = int(facts.server.backup_method == "postgres") + int(_receiver_to_come(facts))
    free = found.max_wal_senders - found.wal_senders_used
    if free < need:
        wanted = max(10, found.wal_senders_used + need + 2)
        return fail(
            name,
            f"{found.wal_senders_used} of {found.max_wal_senders} in use; {need} more needed",
            f"ALTER SYSTEM SET max_wal_senders = {wanted};  -- then restart PostgreSQL",
        )
    return ok(name, f"{free} of {found.max_wal_senders} free")


def _receiver_to_come(facts: Facts) -> bool:
    """Tell whether a WAL receiver of ours still needs a sender: one is wanted and none runs."""
    runs = not isinstance(facts.home, Unknown) and facts.home.receiver is not None
    return facts.server.streaming_archiver and not runs


def system_id(facts: Facts) -> CheckResult:
    """The server, its replication connection and the repository must be of one and the same cluster."""
    name = "system identifier"
    known: dict[str, int] = {}
    if isinstance(facts.live, Live):
        known["conninfo"] = facts.live.facts.system_id
    if not isinstance(facts.streaming, Unknown):
        known["streaming_conninfo"] = facts.streaming.system_id
    if not isinstance(facts.home, Unknown) and facts.home.system_id is not None:
        known["the repository"] = facts.home.system_id
    if len(known) < 2:
        return skip(name, "there is nothing to compare yet" if isinstance(facts.live, Live) else UNREACHED)
    if len(set(known.values())) == 1:
        return ok(name, str(next(iter(known.values()))))
    detail = ", ".join(f"{place}: {number}" for place, number in known.items())
    servers = {known.get("conninfo"), known.get("streaming_conninfo")} - {None}
    if len(servers) > 1:
        return fail(name, detail, "conninfo and streaming_conninfo must lead to the same server")
    return fail(
        name,
        detail,
        "the repository belongs to another cluster: give this one a server name of its own; or, if it was initialised"
        f" anew and its old backups are given up: rm {shlex.quote(facts.server.layout.identity)}",
    )


def clock(facts: Facts) -> CheckResult:
    name = "clocks"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    return apart(name, facts.live.clock_skew, facts.live.clock_doubt)


def apart(name: str, skew: float, doubt: float) -> CheckResult:
    """Judge how far another clock is ahead of ours, known to within `doubt`; all in seconds."""
    side = "ahead of" if skew > 0 else "behind"
    if abs(skew) - doubt > SKEW_LIMIT:
        fix = "on both hosts: timedatectl set-ntp true (or chrony); see: timedatectl timesync-status"
        return warn(name, f"its clock is {abs(skew):.1f} s {side} ours", fix)
    return ok(name, f"{abs(skew):.1f} s apart")
