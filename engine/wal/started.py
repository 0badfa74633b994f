"""The settings that the running receiver was started with, so that a change of them is noticed.

They may hold a password: only a salted, slow digest of them is kept, beside the pid it is true of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

from engine.config import Server
from engine.repository.layout import Layout


def note(server: Server) -> None:
    """Keep what this process receives with; on a full disk it goes unnoted, and a change unnoticed."""
    salt = os.urandom(16).hex()
    document = {"pid": os.getpid(), "salt": salt, "digest": _digest(server, salt)}
    with contextlib.suppress(OSError), open(_path(server.layout), "w", encoding="utf-8", opener=_private) as file:
        json.dump(document, file)


def differs(server: Server, pid: int) -> bool:
    """Tell whether process `pid` is known to receive with other settings than these."""
    try:
        with open(_path(server.layout), encoding="utf-8") as file:
            document = json.load(file)
        return bool(document["pid"] == pid and document["digest"] != _digest(server, document["salt"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(server: Server, salt: str) -> str:
    used = (
        server.conninfo,
        server.streaming_conninfo,
        server.streaming_archiver_name,
        server.slot_name,
        server.create_slot,
        server.path_prefix,
        server.check_timeout,
        server.layout.streaming,
        server.layout.wals,
    )
    return hashlib.scrypt(json.dumps(used).encode(), salt=salt.encode(), n=4096, r=8, p=1).hex()


def _path(layout: Layout) -> str:
    return os.path.join(layout.own, "receive-wal.started")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
