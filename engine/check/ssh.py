"""What must be true between the two hosts. Pure: facts in, result out."""

from __future__ import annotations

import shlex

from engine.check.facts import Facts, Unknown
from engine.check.postgres import apart
from engine.check.reach import Reach, needs_way_back
from engine.check.result import CheckResult, fail, ok, skip
from engine.host.local import installed

_NOT_ASKED = "the server's host was not reached by SSH"
OLDEST_RSYNC = (3, 1, 0)
"""The first that writes its progress with --info=progress2."""
INSTALL_RSYNC = "apt install rsync  # as root; or dnf install rsync"


def login(facts: Facts) -> CheckResult:
    name = "SSH to the server"
    endpoint = facts.server.ssh
    if facts.reach is None:
        if facts.server.backup_method == "rsync" and facts.server.active:
            return fail(name, "no host is named", f"add [servers.{facts.server.name}.ssh] with host and user")
        return skip(name, "no [servers.NAME.ssh]" if facts.server.active else "the server is not active")
    if isinstance(facts.reach, Unknown):
        return fail(name, facts.reach.what, facts.reach.fix)
    return ok(name, f"{endpoint}, as {facts.reach.account}")


def way_back(facts: Facts) -> CheckResult:
    """PostgreSQL's account there must reach us for archive_command, unless that does something else."""
    name = "SSH from the server"
    if not needs_way_back(facts.server):
        return skip(name, "WAL does not come by SSH")
    if not isinstance(facts.reach, Reach) or facts.reach.back is None:
        return skip(name, _NOT_ASKED)
    back, setup = facts.reach.back, facts.ours("setup", facts.server.name)
    if back.problem:
        return fail(name, back.problem, f"{back.fix}\n{setup} prints keys and hosts for it")
    if back.bound_to and facts.server.name not in back.bound_to:
        return fail(
            name,
            f"the key that {back.destination} lets in may only push WAL of {', '.join(back.bound_to)}",
            f"{setup} prints what adds {facts.server.name} to it",
        )
    if back.client:
        return ok(name, f"{back.destination}: cellarman-wal {back.client} answers")
    if not isinstance(facts.live, Unknown) and "cellarman-wal" in (facts.live.facts.archive_command or ""):
        ours = shlex.quote(installed("cellarman-wal") or "cellarman-wal")
        return fail(
            name,
            f"{back.destination} lets it in, and cellarman-wal, which archive_command calls, is not what answers",
            f"ln -s {ours} /usr/local/bin/  # on this host, as root"
            '\nor write its whole path into command="..." of ~/.ssh/authorized_keys',
        )
    return ok(name, f"{back.destination}: cellarman-wal is not what answers")


def clock(facts: Facts) -> CheckResult:
    name = "clock of the SSH host"
    if not isinstance(facts.reach, Reach):
        return skip(name, "no [servers.NAME.ssh]" if facts.reach is None else _NOT_ASKED)
    if facts.reach.clock_skew is None:
        return skip(name, "its date does not tell")
    return apart(name, facts.reach.clock_skew, facts.reach.clock_doubt)


def rsync(facts: Facts) -> CheckResult:
    name = "rsync"
    server = facts.server
    if not server.active:
        return skip(name, "the server is not active")
    if server.backup_method == "postgres":
        return skip(name, "backup_method is postgres")
    if not facts.rsync:
        return fail(name, "there is none on this host", INSTALL_RSYNC)
    if _older(facts.rsync):
        return fail(name, f"{facts.rsync} here is older than {_text(OLDEST_RSYNC)}", INSTALL_RSYNC)
    if server.backup_method == "local-rsync":
        return ok(name, f"{facts.rsync} here")
    if not isinstance(facts.reach, Reach):
        return skip(name, _NOT_ASKED)
    if not facts.reach.rsync:
        return fail(name, f"there is none on {server.ssh}", f"{INSTALL_RSYNC}, on {server.ssh}")
    if _older(facts.reach.rsync):
        return fail(
            name,
            f"{facts.reach.rsync} on {server.ssh} is older than {_text(OLDEST_RSYNC)}",
            f"{INSTALL_RSYNC}, on {server.ssh}",
        )
    return ok(name, f"{facts.rsync} here, {facts.reach.rsync} there")


def _older(version: str) -> bool:
    return tuple(map(int, version.split("."))) < OLDEST_RSYNC


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
