"""What the server's host says over SSH, and whether it reaches this one in turn."""

from __future__ import annotations

import re
import shlex
import socket
import time
from dataclasses import dataclass

from engine.check.account import account
from engine.config import Server
from engine.errors import UsageError
from engine.host import openssh, problems
from engine.host.endpoint import Endpoint
from engine.host.machine import Machine, machine

RSYNC = re.compile(r"rsync\s+version\s+v?(\d+(?:\.\d+)*)")
_BACK_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Back:
    """The way back: the server's host reaching this one, as PostgreSQL's account there, for its archive_command."""

    destination: str
    problem: str = ""
    """Why it is not reached, in ssh's words; "" when it is."""
    fix: str = ""
    kind: problems.Kind | None = None
    """What kind of problem it is, as far as that is known."""
    client: str = ""
    """The version of cellarman-wal that answered; "" when the key is for something else, or it is not on the PATH."""
    bound_to: tuple[str, ...] = ()
    """The servers whose WAL the key may push; none where it is not bound to that."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What the server's host says."""

    account: str
    """The one that we are there."""
    clock_skew: float | None
    """Seconds that its clock is ahead of ours; None when its `date` does not tell."""
    clock_doubt: float
    rsync: str
    """Its version; "" when there is none."""
    public_key: str
    """The first public key of that account; "" when it has none."""
    back: Back | None
    """None when nothing there has to reach this host."""


def backup_host(server: Server) -> Endpoint:
    """Return this host as the server's host is to reach it: as configured, else this account and this host's name."""
    return Endpoint.parse(server.backup_host or f"{account()}@{socket.gethostname()}")


def needs_way_back(server: Server) -> bool:
    """Tell whether PostgreSQL has to send its WAL here by SSH: its host is another one, and files are to arrive."""
    return (
        server.archiver and server.ssh is not None and bool(server.ssh.host) and server.backup_method != "local-rsync"
    )


def look(endpoint: Endpoint, server: Server) -> Reach:
    """Ask the server's host. Raises HostError when it is not reached."""
    with machine(endpoint) as host:
        login = host.run(["id", "-un"])
        if login.status != 0 or len(login.out.split()) != 1:
            raise problems.host_error("noisy_shell", endpoint, login.words or "`id -un` said nothing")
        skew, doubt = _clock(host)
        rsync = RSYNC.search(host.run(["rsync", "--version"]).out.decode(errors="replace"))
        back = _back(host, server) if needs_way_back(server) else None
        return Reach(
            login.out.decode(errors="replace").strip(), skew, doubt, rsync[1] if rsync else "", _key(host), back
        )


def _clock(host: Machine) -> tuple[float | None, float]:
    before = time.time()
    said = host.run(["date", "+%s.%N"]).out.decode(errors="replace").strip()
    half = (time.time() - before) / 2
    try:
        return float(said) - (before + half), half
    except ValueError:  # a date(1) without %N
        return None, half


def _key(host: Machine) -> str:
    said = host.run(["sh", "-c", "cat ~/.ssh/id_ed25519.pub ~/.ssh/id_*.pub 2>/dev/null"]).out.decode(errors="replace")
    line = said.partition("\n")[0].strip()
    return line if line.isprintable() else ""


def _back(host: Machine, server: Server) -> Back:
    """Have the server's host ask this one for the version of cellarman-wal, as its archive_command would push."""
    try:
        to = backup_host(server)
    except UsageError as error:
        return Back(server.backup_host, error.why or str(error), error.now(server.named))
    argv = [*openssh.command(to), openssh.destination(to), "cellarman-wal", "--version"]
    done = host.run(argv, timeout=_BACK_TIMEOUT)
    if done.status == 255 or (done.status == 127 and b"ssh" in done.err[:20]):
        told = problems.explain_openssh(to, done.status, done.err.decode(errors="replace"))
        there = f"there, as {openssh.destination(server.ssh or to)}: {shlex.join(argv)}"
        return Back(str(to), str(told), there, told.kind)
    first, *servers = done.out.decode(errors="replace").splitlines() or [""]
    program, _, version = first.partition(" ")
    if done.status != 0 or program != "cellarman-wal":
        return Back(str(to))
    return Back(str(to), client=version, bound_to=tuple(servers))
