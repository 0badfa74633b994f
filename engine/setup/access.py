"""What lets this host in: lines of pg_hba.conf and of the password file, and the repository's directories."""

from __future__ import annotations

import os
import shlex
import socket

from engine.check.access import logins, tls
from engine.check.account import account
from engine.check.facts import Facts, Unknown
from engine.check.live import Live
from engine.check.storage import READ_ONLY
from engine.config import Config
from engine.oserrors import mounted_at
from engine.postgres import dsn, hba
from engine.setup.piece import Piece, State, found
from engine.setup.sql import host_of, replicates


def host_based(facts: Facts) -> list[Piece]:
    """The lines of pg_hba.conf, by the address that the server sees us at."""
    named = logins(facts)
    if not named:
        return []
    rows = [(named[0].database, named[0].user)]
    if replicates(facts):
        rows.append(("replication", named[1].user))
    address = _address(facts)
    lines = [_line(database, user, address, demand_tls=tls(facts)) for database, user in rows]
    sources = (facts.live, facts.streaming) if replicates(facts) else (facts.live,)
    words = [source.what for source in sources if isinstance(source, Unknown)]
    truth: bool | None = not words
    if words:
        truth = False if any(map(hba.turned_away, words)) else None
    file = facts.live.facts.hba_file if isinstance(facts.live, Live) else None
    where = f"on {host_of(facts)}, in {file or 'pg_hba.conf'}, before lines that match the same"
    note = "then: SELECT pg_reload_conf();" + (f"\nnot known: {words[0]}" if truth is None else "")
    return [Piece("pg_hba.conf", where, "\n".join(lines), "text", found(truth), note)]


def _line(database: str, user: str, address: str, *, demand_tls: bool) -> str:
    names = f"{hba.word(database):<12} {hba.word(user):<18}"
    if not address:
        return f"local  {names} {'peer' if user == account() else 'scram-sha-256'}"
    return f"{'hostssl' if demand_tls else 'host':<6} {names} {address:<18} scram-sha-256"


def _address(facts: Facts) -> str:
    """Return this host's address as the server sees it, with its mask; "" for a socket."""
    said = dsn.parse(facts.server.conninfo)
    host = said.get("hostaddr") or said.get("host", "")
    if not host or host.startswith(("/", "@")):
        return ""
    if isinstance(facts.live, Live) and facts.live.client_address:
        own = facts.live.client_address
    else:
        own = _routed(host.split(",")[0], int(said.get("port", "5432").split(",")[0] or 5432))
    return f"{own}/{128 if ':' in own else 32}" if own else "ADDRESS-OF-THIS-HOST/32"


def _routed(host: str, port: int) -> str:
    """Return the address from which this host would talk to another; "" when that cannot be told. Nothing is sent."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def passwords(facts: Facts) -> list[Piece]:
    """The lines of the password file, with PASSWORD where the password goes."""
    file = facts.passwords
    wanted = logins(facts)[: 1 + int(replicates(facts))]
    if file is None or not wanted:
        return []
    truth = file.exists and not file.too_open and all(file.has(login) for login in wanted)
    state, note = found(truth), f"mode {file.mode:04o}: libpq does not use it" if file.too_open else ""
    if not truth and isinstance(facts.live, Live) and not facts.live.used_password:
        state, note = "choice", "the server lets us in without a password"
    path = shlex.quote(file.path)
    lines = "".join(f"{login.line('PASSWORD')}\n" for login in wanted)
    text = f"(umask 077; cat >> {path}) <<'END'\n{lines}END\nchmod 0600 {path}"
    return [Piece(".pgpass", f"here, as {account()}", text, "sh", state, note)]


def directories(facts: Facts, config: Config) -> list[Piece]:
    """The repository and the state, owned by the account that runs Cellarman."""
    places = list(dict.fromkeys([config.barman_home, facts.server.layout.home, config.state_directory]))
    roots = [place for place in places if not any(place.startswith(other + os.sep) for other in places)]
    state: State = "unknown"
    if not isinstance(facts.storage, Unknown):
        state = found(not facts.storage.unusable)
    who = "barman" if account() == "root" else account()
    text = f"install -d -o {who} -g {who} -m 0750 {' '.join(map(shlex.quote, roots))}"
    if mounts := _read_only(facts):
        text = "\n".join([*(f"mount -o remount,rw {shlex.quote(mount)}" for mount in mounts), text])
    return [Piece("directories", "here, as root", text, "sh", state)]


def _read_only(facts: Facts) -> list[str]:
    """Return where the file systems are mounted that keep us from a directory by being read-only."""
    unusable = {} if isinstance(facts.storage, Unknown) else facts.storage.unusable
    return sorted({mounted_at(place) for place, reason in unusable.items() if reason == READ_ONLY})
