"""Who else has a console open on the same state directory: a small file each, renewed while its console lives."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tui import memory

BEAT = 10.0
"""Seconds between two renewals."""
PATIENCE = 35.0
"""Seconds after which a console that was not heard of counts as gone."""
BURIED = 86400.0
"""Seconds after which the file of a console that ended without a word is removed."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at a console."""

    user: str
    host: str
    pid: int
    came_from: str = ""
    """The address of the SSH client, if any."""
    read_only: bool = False


def myself(read_only: bool, environ: Mapping[str, str] = os.environ) -> Operator:
    """Return who sits at this console."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    came_from = environ.get("SSH_CONNECTION", "").partition(" ")[0]
    return Operator(user, socket.gethostname(), os.getpid(), came_from, read_only)


class Lease:
    """This console's own file, and a look at the others'."""

    def __init__(self, state_directory: str, read_only: bool) -> None:
        self._directory = os.path.join(memory.directory(state_directory), "open")
        self._me = myself(read_only)
        self._path = os.path.join(self._directory, f"{self._me.host}-{self._me.pid}.json")
        self._next = 0.0
        self._others: tuple[Operator, ...] = ()

    def mode(self, read_only: bool) -> None:
        """Say from the next beat on whether this console may change things."""
        me = self._me
        self._me = Operator(me.user, me.host, me.pid, me.came_from, read_only)
        self._next = 0.0

    def beat(self) -> tuple[Operator, ...]:
        """Renew the file when it is time, and return who else is there."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT
            memory.keep(self._path, asdict(self._me))
            self._others = self._look()
        return self._others

    def end(self) -> None:
        """Take the file away."""
        try:
            os.unlink(self._path)
        except OSError:
            return

    def _look(self) -> tuple[Operator, ...]:
        found: list[Operator] = []
        try:
            entries = [entry for entry in os.scandir(self._directory) if entry.name.endswith(".json")]
        except OSError:
            return ()
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.path == self._path:
                continue
            try:
                age = time.time() - entry.stat().st_mtime
                if age > BURIED:
                    os.unlink(entry.path)
            except OSError:
                continue
            operator = _read(entry.path) if age <= PATIENCE else None
            if operator is not None:
                found.append(operator)
        return tuple(found)


def _read(path: str) -> Operator | None:
    document = memory.load(path)
    try:
        return Operator(
            str(document["user"]),
            str(document["host"]),
            int(document["pid"]),
            str(document["came_from"]),
            bool(document["read_only"]),
        )
    except (TypeError, KeyError, ValueError):
        return None
