"""What must be true so that this account is let in. Pure: facts in, result out."""

from __future__ import annotations

import os
import shlex

from engine.check.account import account as own_account
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.postgres import UNREACHED
from engine.check.result import CheckResult, fail, ok, skip, warn
from engine.postgres import dsn, pgpass
from engine.postgres.quoting import ident

_ASKED = ("no password supplied", "password authentication failed")


def account(facts: Facts) -> CheckResult:
    name = "account"
    if os.geteuid() == 0:
        return warn(
            name,
            "root: what it writes is not the repository's owner's, and PostgreSQL is never started by it",
            "run it as the repository's owner, as: sudo -iu barman",
        )
    return ok(name, own_account())


def passwords(facts: Facts) -> CheckResult:
    """A password file that others may read is passed over by libpq; its lines are then as good as none."""
    name = ".pgpass"
    file, asked = facts.passwords, _asked(facts)
    if file is None or not facts.server.active:
        return skip(name, "the server is not active" if file else "there is no conninfo")
    path = shlex.quote(file.path)
    if file.too_open:
        detail = f"{file.path} has mode {file.mode:04o}: libpq does not use it"
        return (fail if asked else warn)(name, detail, f"chmod 0600 {path}")
    if file.unreadable:
        return fail(name, file.unreadable, f"chown {own_account()} {path}; chmod 0600 {path}")
    missing = [login for login in logins(facts) if not file.has(login)]
    if asked and missing:
        lines = " ".join(shlex.quote(login.line("PASSWORD")) for login in missing)
        how = f"printf '%s\\n' {lines} >> {path}; chmod 0600 {path}  # with the password for PASSWORD"
        return fail(name, f"{file.path}: no line for {missing[0].user}@{missing[0].host}", how)
    if not file.exists:
        reached = not all(isinstance(source, Unknown) for source in (facts.live, facts.streaming))
        return skip(name, f"there is none; {'the server lets us in without' if reached else UNREACHED}")
    return ok(name, f"{file.path}, mode {file.mode:04o}" if file.mode else file.path)


def _asked(facts: Facts) -> bool:
    """Tell whether the server turned us away for want of the right password."""
    sources = (facts.live, facts.streaming)
    return any(isinstance(source, Unknown) and any(words in source.what for words in _ASKED) for source in sources)


def logins(facts: Facts) -> list[pgpass.Login]:
    """Return the connections that a server needs, as a password file names them."""
    server = facts.server
    found = []
    for conninfo, replication in ((server.conninfo, False), (server.streaming_conninfo or server.conninfo, True)):
        try:
            login = pgpass.login_of(dsn.parse(conninfo), replication=replication, account=own_account())
        except ValueError:
            continue
        found.append(login)
    return found


def host_based(facts: Facts) -> CheckResult:
    """Connecting proves the lines that we need; a line that cannot be read keeps the whole file from being reloaded."""
    name = "pg_hba.conf"
    if isinstance(facts.live, Unknown):
        return skip(name, UNREACHED)
    errors, file = facts.live.hba_errors, facts.live.facts.hba_file or "pg_hba.conf"
    if errors is None:
        role = ident(facts.live.facts.role)
        grant = f"GRANT SELECT ON pg_hba_file_rules TO {role}; GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO {role}"
        return skip(name, f"it lets us in; whether all of it is readable, only a superuser sees, or after: {grant}")
    if errors:
        fix = f"correct it in {file}, then in psql:\nSELECT pg_reload_conf();"
        return fail(name, "\n".join(("the server goes on with its old content:", *errors)), fix)
    return ok(name, f"{file}, no errors")


def tls(facts: Facts) -> bool:
    """Tell whether connections are made over the network with TLS demanded."""
    if not isinstance(facts.live, Live):
        return False
    try:
        mode = dsn.parse(facts.server.conninfo).get("sslmode", "prefer")
    except ValueError:
        return False
    return mode in ("require", "verify-ca", "verify-full")
