"""Where a restore may go, and how long it may take: first guesses that the operator changes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine.config import Server
from engine.recovery import destination, place
from engine.repository.backupinfo import BackupInfo

_MOST = 100


def directory(server: Server, info: BackupInfo | None, *, uid: int | None = None) -> str:
    """Return a new directory that a restore of this backup could be made in; "" when no place suggests itself.

    Looked for beside the server's own data directory, in the home directory, and in /var/tmp; there must be room.
    """
    uid = os.geteuid() if uid is None else uid
    need = (info.cluster_size or info.size or 0) if info is not None else 0
    beside = os.path.dirname(info.pgdata.rstrip("/")) if info is not None and info.pgdata else ""
    for parent in (beside, os.path.expanduser("~"), "/var/tmp"):
        if not (os.path.isabs(parent) and os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
            continue
        path = _free(os.path.join(parent, f"{server.name}-restored"))
        found = place.look(path) if path else None
        # Root is refused wherever it asks for; the place is judged all the same.
        if found and found.free > need and not destination.refusals(server, place.Ground(uid or 1, found), ()):
            return path
    return ""


def _free(path: str) -> str:
    """Return the path, or one with a number after it, that is not there yet."""
    numbered = (path, *(f"{path}-{number}" for number in range(2, _MOST)))
    return next((each for each in numbered if not os.path.lexists(each)), "")


def seconds(copy_bytes: int, past: Sequence[tuple[int, float]]) -> float | None:
    """Return how long copying so many bytes may take, by the bytes and seconds of what was done before, latest first;
    None when nothing was.

    >>> seconds(1000, [(500, 5.0), (10, 100.0)]), seconds(1000, []), seconds(10, [(0, 1.0)])
    (10.0, None, None)
    """
    for count, took in past:
        if count > 0 and took > 0:
            return copy_bytes * took / count
    return None
