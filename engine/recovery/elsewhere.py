"""Planning a restore on another host: what that host is asked before anything is made there, and why not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.host import rsync
from engine.host.endpoint import Endpoint
from engine.host.machine import Machine, machine
from engine.postgres.walrecord import TablespaceMade
from engine.recovery import farside, remote, staging
from engine.recovery.destination import Placed
from engine.recovery.place import Ground, Place
from engine.recovery.plan import Changes, Order, Plan
from engine.repository.backupinfo import BackupInfo

_MOST_LINES = 1000
"""Of rsync's itemised lines, kept in a plan."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another host, as far as a restore to it is concerned."""

    endpoint: Endpoint
    ground: Ground
    staging: Place
    """Where WAL will be staged."""
    refusals: tuple[Refused, ...]
    postgres: str = ""
    """Where the backup's version of postgres is there; "" when it was not found."""

    @property
    def delta(self) -> bool:
        """There is a data directory that can be changed."""
        return "PG_VERSION" in self.ground.destination.names


def look(
    server: Server, order: Order, info: BackupInfo, placed: Sequence[Placed], replayed: Sequence[TablespaceMade]
) -> Elsewhere:
    """Ask the host that `order.on` names. Raises UsageError, and HostError when it cannot be asked."""
    endpoint = Endpoint.parse(order.on, server.ssh)
    with machine(endpoint) as far:
        beside = order.destination + staging.BESIDE
        spaces = [*(space.directory for space in placed), *(space.location for space in replayed)]
        seen = farside.survey(far, order.destination, [*spaces, beside])
        place = seen.spaces[-1]
        if not (place.usable or (not place.there and place.parent_usable)):
            place = replace(seen.destination, path=os.path.join(order.destination, staging.INSIDE), names=())
        ground = replace(seen, spaces=seen.spaces[: len(placed)], replayed=seen.spaces[len(placed) : -1])
        postgres, absent = _postgres(far, server, info)
        found = [*_programs(far, info), *_delta(server, order, info, placed, ground), *_staging(place)]
    return Elsewhere(endpoint, ground, place, (*found, *(absent if order.start else ())), postgres)


def with_changes(server: Server, plan: Plan) -> Plan:
    """Return the plan of a delta with what it would change, by rsync's dry run."""
    size, lines = remote.changes(server, plan)
    removed = sum(line.startswith("*deleting") for line in lines)
    sent = sum(line[:2] in ("<f", ">f") for line in lines)
    return replace(plan, changes=Changes(size, sent, removed, tuple(lines[:_MOST_LINES])))


def _postgres(far: Machine, server: Server, info: BackupInfo) -> tuple[str, list[Refused]]:
    """Return where the backup's version of postgres is on the host, or "" and why there is none."""
    try:
        return farside.find_postgres(far, server.path_prefix, info.major or 0), []
    except CellarmanError as error:
        return "", [Refused(error.what, error.why, error.fix)]


def _programs(far: Machine, info: BackupInfo) -> list[Refused]:
    """Return which programs the host lacks."""
    found = []
    try:
        if not info.is_tar and not info.is_incremental:
            rsync.version(far)
        if far.run(["tar", "--version"]).status == 127:
            found.append(Refused(f"there is no tar on {far.name}", "WAL is sent with it", "install tar there"))
    except CellarmanError as error:
        found.append(Refused(error.what, error.why, error.fix))
    return found


def _delta(server: Server, order: Order, info: BackupInfo, placed: Sequence[Placed], ground: Ground) -> list[Refused]:
    """Return why what is there may not be changed; what a delta finds and the backup lacks, it removes."""
    place = ground.destination
    if not order.delta or "PG_VERSION" not in place.names:
        return []
    for space, there in zip(placed, ground.spaces, strict=True):
        stored = server.layout.tablespace(info.id, space.oid)
        strange = set(there.names) - set(os.listdir(stored) if os.path.isdir(stored) else ())
        if strange:
            what = f"the place of tablespace {space.name} {there.path} holds more than this tablespace"
            why = f"{sorted(strange)[0]} is not of it: another version's, or another server's"
            return [Refused(what, why, f"choose another directory with --tablespace {shlex.quote(space.name)}=DIR")]
    if info.is_tar:
        why = f"backup {info.id} is tar files, which cannot be compared with a directory's files"
        return [Refused("a delta needs a backup of plain files", why, "restore into an empty directory")]
    if info.is_incremental:
        why = f"backup {info.id} is incremental: its files are made whole on the way, and cannot be compared before"
        return [Refused("a delta needs a full backup", why, "restore into an empty directory")]
    known = place.system_id
    if place.leftover is None and known is not None and info.systemid is not None and known != info.systemid:
        why = f"its pg_control says system {known}, the backup's is {info.systemid}"
        return [Refused(f"{place.path} holds another system's data directory", why, "choose another directory")]
    if place.leftover is None and known is None:
        why = "it has a PG_VERSION and no global/pg_control, and no restore of ours left it so"
        return [Refused(f"{place.path} is not whole", why, "see what it is; or choose another directory")]
    return []


def _staging(place: Place) -> list[Refused]:
    if "\n" in place.path or "\r" in place.path:
        why = "restore_command names it, and a setting cannot hold a line break"
        return [Refused(f"WAL cannot be staged in {place.path!r}", why, "choose a directory without a line break")]
    if place.there and set(place.names) - {"wal", "fetch"}:
        why = f"it holds {place.names[0]}, which is not staged WAL"
        return [Refused(f"WAL cannot be staged in {place.path}", why, "remove or rename it")]
    return []
