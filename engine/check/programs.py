"""What must be true of PostgreSQL's client programs on this machine."""

from __future__ import annotations

from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.result import CheckResult, fail, ok, skip


def pg_basebackup(facts: Facts) -> CheckResult:
    if facts.server.backup_method != "postgres":
        return skip("pg_basebackup", f"backup_method is {facts.server.backup_method}")
    return _found(facts, "pg_basebackup")


def pg_receivewal(facts: Facts) -> CheckResult:
    if not facts.server.streaming_archiver:
        return skip("pg_receivewal", "streaming_archiver is off")
    return _found(facts, "pg_receivewal")


def pg_verifybackup(facts: Facts) -> CheckResult:
    """Without it backups are read against their manifest by cellarman itself, so its absence is no failure."""
    found = facts.programs["pg_verifybackup"]
    if isinstance(found, Unknown):
        return ok("pg_verifybackup", "not here; backups are verified without it")
    return _found(facts, "pg_verifybackup")


def _found(facts: Facts, name: str) -> CheckResult:
    if not facts.server.active:
        return skip(name, "the server is not active")
    found = facts.programs[name]
    if isinstance(found, Unknown):
        return fail(name, found.what, found.fix)
    newer = "" if isinstance(facts.live, Live) else "; whether it suits the server is not known"
    return ok(name, f"{found.path}, {found.version[0]}.{found.version[1]}{newer}")


def compression(facts: Facts) -> CheckResult:
    """Nothing is started for an answer; a server that does not tell its build is asked when a backup starts."""
    from engine.postgres import programs

    name = "backup compression"
    server = facts.server
    if server.backup_compression == "none" or server.backup_method != "postgres":
        return skip(name, "backup_compression is none")
    if server.backup_compression_location == "server":
        return _by_server(facts, name)
    found = facts.programs["pg_basebackup"]
    if isinstance(found, Unknown):
        return skip(name, "there is no pg_basebackup")
    refusal = programs.supports(found, server.backup_compression)
    if refusal:
        fix = f'in [servers.{server.name}]: backup_compression = "gzip", or install a pg_basebackup with it'
        return fail(name, refusal, fix)
    return ok(name, f"{server.backup_compression} by {found.path}")


_BUILT_WITH = {"zstd": "--with-zstd", "lz4": "--with-lz4"}


def _by_server(facts: Facts, name: str) -> CheckResult:
    server = facts.server
    if not isinstance(facts.live, Live):
        return skip(name, "PostgreSQL was not reached")
    fix = f'in [servers.{server.name}]: backup_compression_location = "client", or backup_compression = "gzip"'
    if facts.live.facts.major < 15:
        return fail(name, "server-side compression came with PostgreSQL 15", fix)
    flag, built = _BUILT_WITH.get(server.backup_compression, ""), facts.live.configure
    if built and flag and flag not in built:
        return fail(name, f"the server was built without {server.backup_compression}", fix)
    certainty = "" if built else ", asked for when a backup starts"
    return ok(name, f"{server.backup_compression} on the server{certainty}")
