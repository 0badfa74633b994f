"""The PostgreSQL clusters of this host, as far as they show: Debian's list, sockets, and the PG* variables."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOCKETS = ("/var/run/postgresql", "/tmp")
PATIENCE = 5.0
"""Seconds that pg_lsclusters may take."""
_SOCKET = re.compile(r"\.s\.PGSQL\.(\d+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that was found."""

    host: str
    """A directory of sockets, or a host's name."""
    port: int
    name: str = ""
    """Debian's name for it, such as `main`."""
    version: str = ""
    """The major version, where it is known."""
    running: bool = True
    data_directory: str = ""
    found_by: str = ""
    """What showed it."""
    user: str = ""
    """The role that PGUSER names."""

    @property
    def conninfo(self) -> str:
        """How it is reached."""
        user = f" user={self.user}" if self.user else ""
        return f"host={self.host} port={self.port}{user} dbname=postgres"


def find(environ: Mapping[str, str] = os.environ, sockets: Sequence[str] = SOCKETS) -> list[Cluster]:
    """Return what is found, those that run first; one that shows itself twice is named once."""
    found: dict[tuple[str, int], Cluster] = {}
    for cluster in [*_debian(), *_sockets(sockets), *_variables(environ)]:
        found.setdefault((os.path.realpath(cluster.host), cluster.port), cluster)
    return sorted(found.values(), key=lambda cluster: (not cluster.running, cluster.port))


def _debian() -> list[Cluster]:
    try:
        done = subprocess.run(["pg_lsclusters", "--no-header"], capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed(done.stdout.decode(errors="replace"))


def listed(text: str) -> list[Cluster]:
    """Return the clusters in what pg_lsclusters prints.

    >>> [c.port for c in listed("15 main 5432 online postgres /srv/15/main /var/log/x.log\\nnonsense\\n")]
    [5432]
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 6 or not words[2].isdigit():
            continue
        version, name, port, status, _, data = words[:6]
        running = status.startswith("online")
        found.append(Cluster(SOCKETS[0], int(port), name, version, running, data, "pg_lsclusters"))
    return found


def _sockets(directories: Sequence[str]) -> list[Cluster]:
    found = []
    for directory in directories:
        for path in sorted(glob.glob(os.path.join(glob.escape(directory), ".s.PGSQL.*"))):
            match = _SOCKET.fullmatch(os.path.basename(path))
            if match:
                found.append(Cluster(directory, int(match[1]), found_by=f"a socket in {directory}"))
    return found


def _variables(environ: Mapping[str, str]) -> list[Cluster]:
    host, port = environ.get("PGHOST", ""), environ.get("PGPORT", "")
    if not host and not port:
        return []
    number = int(port) if port.isdigit() else 5432
    user = environ.get("PGUSER", "")
    return [Cluster(host or SOCKETS[0], number, found_by="PGHOST and PGPORT", user=user)]
