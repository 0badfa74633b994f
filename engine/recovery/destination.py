"""Where a restore may write, and why not: pure, from what was found there before anything is made."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.commands import Command, cellarman
from engine.config import Server
from engine.errors import Advice, Refused
from engine.oserrors import writable_again
from engine.postgres.lsn import Lsn
from engine.postgres.walrecord import TablespaceMade
from engine.recovery.place import Ground, Place

_SPACE = re.compile(r"PG_\d+(\.\d+)?_\d+")
"""What PostgreSQL makes in a tablespace's directory, and nothing else (src/common/relpath.h)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tablespace and where it goes."""

    name: str
    oid: int
    source: str
    """Its location on the original server."""
    directory: str
    """Its location after the restore."""


@dataclass(frozen=True, slots=True)
class _Rules:
    """What holds for every directory of one restore."""

    server: Server
    ground: Ground
    delta: bool


def refusals(
    server: Server,
    ground: Ground,
    tablespaces: Sequence[Placed],
    replayed: Sequence[TablespaceMade] = (),
    *,
    delta: bool = False,
    state_directory: str = "",
    instead: Callable[[Lsn], str | Command] = str,
) -> list[Refused]:
    """Return why nothing may be written there; empty when it may.

    `replayed` are tablespaces that WAL makes; `instead` returns the command that stops before that.

    `delta` lets the restore change a stopped server's data directory into what the backup holds. `state_directory` is
    Cellarman's own: jobs and journals are in it.
    """
    rules = _Rules(server, ground, delta)
    found = _our_own(ground, state_directory) if state_directory and ground.holds_repository else []
    if ground.uid == 0:
        found.append(_as_root(ground))
    place = ground.destination
    left = place.leftover
    if place.busy:
        found.append(Refused(f"another restore into {place.path} is running", "", Advice(cellarman("jobs"))))
    found += _directory(rules, place, "the destination", ours=left is not None)
    seen: dict[str, str] = {place.real: "the destination"}
    for space, there in zip(tablespaces, ground.spaces, strict=True):
        what = f"the place of tablespace {space.name}"
        owned = left is not None and there.real in left.directories
        owned = owned or (delta and all(_SPACE.fullmatch(name) for name in there.names))
        found += _directory(rules, there, what, ours=owned, option=f"--tablespace {shlex.quote(space.name)}=DIR")
        found += _overlap(there.real, what, seen)
        seen[there.real] = what
    for made, there in zip(replayed, ground.replayed, strict=True):
        what = f"the place where WAL makes tablespace {made.oid}"
        owned = left is not None and there.real in left.directories
        fix = Advice(
            "restore to before that: ",
            instead(made.lsn),
            "\nor, with --on HOST, where that directory is free; what a later backup holds can be put anywhere",
        )
        found += [_in_use(made, there, ground.host, fix)] if there.names and not owned else []
        found += _directory(rules, there, what, ours=True, fix=fix)
        found += _overlap(there.real, what, seen)
        seen[there.real] = what
    return found


def _in_use(made: TablespaceMade, there: Place, host: str, fix: Advice) -> Refused:
    """Return why WAL may not make a tablespace where it does: PostgreSQL would go on with what lies there."""
    return Refused(
        f"replay would write into {there.path}{f' on {host}' if host else ''}, which is in use",
        f"tablespace {made.oid} was made there at {made.lsn}, after this backup began, and replay makes it in the same"
        f" place again, over what is there ({there.names[0]}): it may be the living server's",
        fix,
    )


def _our_own(ground: Ground, state_directory: str) -> list[Refused]:
    holder = os.path.realpath(state_directory)
    why = f"{state_directory} holds the journals of jobs"
    return [
        Refused(f"{place.path} lies in Cellarman's own directory", why, "choose another directory")
        for place in (ground.destination, *ground.spaces)
        if _within(place.real, holder) or _within(holder, place.real)
    ]


def _as_root(ground: Ground) -> Refused:
    fix = "run it as the account that PostgreSQL runs as: sudo -iu postgres"
    if ground.host:
        fix = "name the account that PostgreSQL runs as there: --on postgres@HOST"
    why = "PostgreSQL starts neither as root nor in a directory that root owns"
    return Refused("a restore is not done as root", why, fix)


def _directory(
    rules: _Rules, place: Place, what: str, *, ours: bool = False, option: str = "", fix: str | Advice = ""
) -> list[Refused]:
    """Return why a new cluster's files cannot go to a place."""
    path, uid = place.path, rules.ground.uid
    fix = fix or "choose a directory that is empty or does not exist"
    fix = f"choose another directory with {option}" if option else fix
    inside = _inside_repository(rules.server, place) if rules.ground.holds_repository else ""
    if inside:
        return [Refused(f"{what} {path} lies in the repository", f"{inside} holds backups", fix)]
    if place.inside:
        why = f"{place.inside} is one, with a PG_VERSION"
        return [Refused(f"{what} {path} lies in a PostgreSQL data directory", why, fix)]
    if place.hidden:
        where = "" if place.hidden == path else f" in {place.hidden}"
        fix = Advice(fix, f", or run it as the account that may look into {place.hidden}")
        return [Refused(f"{what} {path} cannot be looked into", f"permission denied{where}", fix)]
    if not place.there:
        return _parent(rules, place, what, fix)
    if place.leads_to:
        why = f"it is a symbolic link to {place.leads_to}, and there is nothing"
        return [Refused(f"{what} {path} leads nowhere", why, fix)]
    if not place.directory:
        return [Refused(f"{what} {path} is not a directory", "", fix)]
    if place.read_only:
        return [_unwritable(place, f"{what} {path} is not writable", fix)]
    if place.owner != uid and uid != 0:
        why = f"it belongs to account {place.owner}; PostgreSQL runs only in a directory of its own"
        fix = fix if place.names else Advice(fix, f", or sudo chown {uid} {shlex.quote(path)}")
        return [Refused(f"{what} {path} belongs to another account", why, fix)]
    if not place.usable:
        return [Refused(f"{what} {path} is not writable", "permission denied", fix)]
    return [] if not place.names or ours else _occupied(rules, place, what, fix)


def _parent(rules: _Rules, place: Place, what: str, fix: str | Advice) -> list[Refused]:
    """Return why a place cannot be made."""
    if not place.parent_directory:
        return [Refused(f"{what} {place.path} cannot be made", f"{place.parent} is not a directory", fix)]
    if place.read_only:
        return [_unwritable(place, f"{what} {place.path} cannot be made", fix)]
    if not place.parent_usable:
        make = f"make it as root: install -d -o {rules.ground.uid} -m 0700 {shlex.quote(place.path)}; or "
        why = f"{place.parent} is not writable by this account"
        return [Refused(f"{what} {place.path} cannot be made", why, Advice(make, fix))]
    return []


def _unwritable(place: Place, what: str, fix: str | Advice) -> Refused:
    why = f"the file system at {place.read_only} is mounted read-only"
    return Refused(what, why, Advice(f"{writable_again(place.read_only)}; or ", fix))


def _occupied(rules: _Rules, place: Place, what: str, fix: str | Advice) -> list[Refused]:
    path, names = place.path, place.names
    if place.server_pid:
        why = f"its postmaster.pid names process {place.server_pid}, which runs"
        there = f" on {rules.ground.host}, as its account" if rules.ground.host else ""
        stop = f"; or stop it{there}: pg_ctl -D {shlex.quote(path)} stop" if rules.delta else ""
        return [Refused(f"{what} {path} is a running server's data directory", why, Advice(fix, stop))]
    if "PG_VERSION" in names:
        if rules.delta:
            return []
        changed = "; or change it into what the backup holds: --delta" if rules.ground.host else ""
        return [Refused(f"{what} {path} is not empty", "it holds a PostgreSQL data directory", Advice(fix, changed))]
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return [Refused(f"{what} {path} is not empty", f"it holds {shown}", fix)]


def _inside_repository(server: Server, place: Place) -> str:
    """Return the directory of the repository that a place is in, or that is in it; empty when neither."""
    layout = server.layout
    for directory in (server.barman_home, *layout.directories()):
        holder = os.path.realpath(directory) if directory else ""
        if holder and (_within(place.real, holder) or _within(holder, place.real)):
            return directory
    return ""


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _overlap(path: str, what: str, seen: Mapping[str, str]) -> list[Refused]:
    for other, name in seen.items():
        if _within(path, other) or _within(other, path):
            return [Refused(f"{what} {path} and {name} {other} overlap", "", "give each its own directory")]
    return []
