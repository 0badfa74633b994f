"""What must be true before a backup by rsync is begun; nothing is made until all of it is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from engine.backup import preflight, reuse
from engine.backup.reuse import Parent
from engine.config import Server
from engine.errors import CellarmanError, Refused
from engine.event import Reporter
from engine.host import calls, rsync
from engine.host.endpoint import Endpoint
from engine.host.local import ThisHost
from engine.host.rsync import RsyncVersion
from engine.host.shared import Shared
from engine.postgres.controlfile import read_control
from engine.postgres.facts import ServerFacts


@dataclass(frozen=True, slots=True)
class Ready:
    """What a backup of the server will be made with."""

    facts: ServerFacts
    pgdata: str
    far: Endpoint | None
    """Where PostgreSQL is; None: on this host."""
    near: Endpoint | None
    """The same over a connection that is there, for what is short."""
    here: RsyncVersion
    there: RsyncVersion
    compress: str
    """One of rsync's compressors, or ""."""
    page_size: int
    segment_pages: int
    """Of a relation's file."""
    parent: Parent | None


def far_of(server: Server) -> Endpoint | None:
    """Return where the server's files are; None: on this host."""
    return server.ssh if server.backup_method == "rsync" else None


def examine(server: Server, report: Reporter, shared: Shared) -> Ready:
    """Return what the backup needs; raises Refused, HostError, or CellarmanError when the server does not answer."""
    facts = preflight.server_side(server, report)
    preflight.senders(server, facts, wanted=0)
    pgdata = _data_directory(server, facts)
    far, near = far_of(server), shared.endpoint()
    here = rsync.version(ThisHost())
    host = calls.host(near)
    with ThreadPoolExecutor(1) as beside:  # the host costs a connection for each question, where none can be shared
        asked = beside.submit(_same_cluster, server, facts, host, pgdata)
        there = here if far is None else rsync.version(host)
        page, pages = asked.result()
    if server.reuse_backup == "link" and os.path.isdir(server.layout.base):
        reuse.can_link(server)
    parent = reuse.parent(server, facts)
    needed = 0 if parent is not None and server.reuse_backup == "link" else facts.cluster_size or 0
    preflight.room(server, preflight.HEADROOM + needed)
    compress = _compressor(server, here, there) if far else ""
    return Ready(facts, pgdata, far, near, here, there, compress, page, pages, parent)


def _data_directory(server: Server, facts: ServerFacts) -> str:
    if facts.missing_for_copy:
        raise Refused(
            f"the role {facts.role} may not do what a backup of {server.name} by rsync needs",
            "it is no superuser and lacks these rights",
            "as a superuser: " + "; ".join(facts.missing_for_copy),
        )
    if not facts.data_directory:
        raise Refused(
            f"{server.name} does not tell where its data directory is",
            f"the role {facts.role} may not read the setting data_directory",
            f'as a superuser: GRANT pg_read_all_settings TO "{facts.role}"',
        )
    return facts.data_directory.rstrip("/")


def _same_cluster(server: Server, facts: ServerFacts, host: calls.Calls | ThisHost, pgdata: str) -> tuple[int, int]:
    """See that the host holds the cluster that conninfo leads to; returns its page size and pages a file."""
    path = f"{pgdata}/global/pg_control"
    wrong = f"correct conninfo or {preflight.table(server)[:-1]}.ssh]: both must lead to the same host"
    try:
        control = read_control(host.read(path))
    except FileNotFoundError:
        raise Refused(
            f"there is no PostgreSQL data directory {pgdata} on {host.name}", f"{path} is not there", wrong
        ) from None
    except CellarmanError as error:
        account = "this account" if host.endpoint is None else f"the account of {host.name}"
        raise Refused(
            f"the data directory {pgdata} on {host.name} cannot be read",
            str(error),
            f"let {account} read it: it has to be PostgreSQL's own, or in its group (initdb -g)",
        ) from error
    if control.system_id != facts.system_id:
        raise Refused(
            f"the data directory {pgdata} on {host.name} is another cluster than the one that conninfo leads to",
            f"its system identifier is {control.system_id}, the server's is {facts.system_id}",
            wrong,
        )
    return control.block_size, control.relation_pages


def _compressor(server: Server, here: RsyncVersion, there: RsyncVersion) -> str:
    wanted = server.network_compression
    found = rsync.compressor(wanted, here, there)
    if found is None:
        has = {"here": here, f"on {server.ssh}": there}
        lacking = next(where for where, program in has.items() if wanted not in program.compressors)
        both = [name for name in here.compressors if name in there.compressors]
        raise Refused(
            f'network_compression = "{wanted}" cannot be used for {server.name}',
            f"the rsync {has[lacking]} {lacking} does not have it; both have: {', '.join(both) or 'none'}",
            f'set network_compression = "auto" in {preflight.table(server)}',
        )
    return found
