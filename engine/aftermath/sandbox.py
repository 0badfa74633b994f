"""A restored copy that nobody but this account can reach: no network, a socket in a private directory, trust there."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from engine.aftermath import marker as marker_
from engine.aftermath.marker import Marker
from engine.config import Server
from engine.errors import CellarmanError
from engine.event import Reporter
from engine.postgres import connection, dsn
from engine.recovery import restore, settings, start
from engine.recovery.plan import Order, Plan
from engine.recovery.planner import make_plan
from engine.recovery.start import Verdict
from engine.recovery.target import NameTarget
from engine.repository import repository

DATA = "data"
_STOP = 60.0
_ALONE = {
    "listen_addresses": "",
    "ssl": "off",
    "shared_preload_libraries": "",
    "shared_buffers": "32MB",
    "huge_pages": "off",
    "autovacuum": "off",
}
"""What the copy does without: the network, and libraries and memory that this host need not have."""


def make_root(wanted: str) -> str:
    """Make and return the sandbox's own directory, below `wanted` or where temporary files go."""
    base = os.path.abspath(wanted) if wanted else "/var/tmp" if not os.environ.get("TMPDIR") else tempfile.gettempdir()
    try:
        return tempfile.mkdtemp(prefix="cellarman-aftermath-", dir=base)
    except OSError as error:
        raise CellarmanError(
            f"no sandbox can be made in {base}", str(error), "name a directory with --sandbox DIR"
        ) from error


def plan(server: Server, root: str, marker: Marker, timeline: int, now: datetime, config_file: str) -> Plan:
    """Return how the copy is restored to the marker's restore point, paused there; raises what it is refused for."""
    order = Order(
        server.name,
        os.path.join(root, DATA),
        target=NameTarget(marker.text),
        timeline=str(timeline),
        tablespaces=_tablespaces(server, root),
        config_file=config_file,
    )
    found = make_plan(server, order, now=now)
    if found.refused is not None:
        raise found.refused
    return found


def _tablespaces(server: Server, root: str) -> dict[str, str]:
    """Return a place in the sandbox for every tablespace that the newest good backup has."""
    usable = repository.catalogue(server.layout).usable
    return {
        space.name: os.path.join(root, f"tablespace-{space.oid}") for space in (usable[0].tablespaces if usable else ())
    }


def bring(server: Server, agreed: Plan, root: str, report: Reporter) -> None:
    """Restore the copy, and shut it in."""
    assert agreed.info is not None
    planned = {"backup": agreed.info.id, "timeline": agreed.timeline}
    restore.execute({**agreed.order.to_arguments(), "planned": planned}, server, report)
    access, idents = os.path.join(root, "pg_hba.conf"), os.path.join(root, "pg_ident.conf")
    _write(access, "local all all trust\n")
    _write(idents, "")
    alone = {**_ALONE, "hba_file": access, "ident_file": idents, "unix_socket_directories": root}
    with open(os.path.join(agreed.order.destination, "postgresql.auto.conf"), "a", encoding="utf-8") as file:
        file.write(settings.render(alone))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def started(server: Server, agreed: Plan, report: Reporter) -> Iterator[Verdict]:
    """Start the copy, wait until it has reached the marker, and stop it afterwards."""
    verdict = start.start(server, agreed, report)
    try:
        if verdict.state == "failed":
            raise CellarmanError(
                "the copy did not recover", verdict.text, f"see its log before it is removed: {verdict.log}"
            )
        yield verdict
    finally:
        if verdict.pid is not None:
            stop(verdict.pid)


def read_back(server: Server, verdict: Verdict, oid: int) -> str:
    """Return the marker's text as the copy holds it."""
    said = dsn.parse(server.conninfo)
    database = {key: said[key] for key in ("user", "dbname") if key in said}
    conninfo = connection.with_options("", host=verdict.socket, port=verdict.port, **database)
    with connection.connect(conninfo) as link:
        return marker_.read(link, oid)


def stop(pid: int) -> None:
    """End a postmaster at once, ours or one that an earlier run left; its copy is not needed any more."""
    deadline = time.monotonic() + _STOP
    try:
        os.kill(pid, signal.SIGQUIT)
        while not _ended(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    except ProcessLookupError:
        return


def _ended(pid: int) -> bool:
    """Tell whether a process is gone, reaping it when it is our child."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        os.kill(pid, 0)
        return False


def remove(root: str) -> None:
    """Remove a sandbox, with a server that still runs in it."""
    try:
        with open(os.path.join(root, DATA, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            pid = int(file.readline())
        if os.path.realpath(f"/proc/{pid}/cwd").startswith(os.path.realpath(root)):
            stop(pid)
    except (OSError, ValueError):
        pass
    shutil.rmtree(root, ignore_errors=True)
