"""How receiving begins anew when the server no longer has what it would go on with: after a slot was lost or dropped,
or a time of wal_level = minimal. Pure: words in, commands out."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection

from engine.commands import cellarman, wal_push
from engine.config import Server
from engine.postgres.quoting import literal

_REMOVED = re.compile(r"WAL segment ([0-9A-F]{24}) has already been removed")
_NO_SLOT = re.compile(r"replication slot \".*\" does not exist")


def commands(server: Server, said: str, received: Collection[str], config_file: str = "") -> str:
    """Return what to type, a command a line, after PostgreSQL's words `said`; "" when they are about something else.

    `received` are the names in streaming/: an unfinished segment there makes receiving go on where it ends, and so does
    a slot, which may stand where the server has no WAL any more. `config_file` is named in the commands.
    """
    slot = literal(server.slot_name)
    drop, make = (
        f"SELECT pg_drop_replication_slot({slot});",
        f"SELECT pg_create_physical_replication_slot({slot}, true);",
    )
    take = cellarman("backup", server.name).line(config_file)
    backup = f"{take}  # once check says that WAL comes again, a minute later at most"
    if _NO_SLOT.search(said):
        return f"{make}  -- in psql\n{backup}"
    removed = _REMOVED.search(said)
    if removed is None:
        return ""
    partial = f"{removed[1]}.partial"
    path = os.path.join(server.layout.streaming, partial)
    push = f"{wal_push(path, server.name).line(config_file)} && rm {shlex.quote(path)}"
    keep = [push] if partial in received else []
    renew = [f"{drop if server.create_slot == 'auto' else f'{drop} {make}'}  -- in psql"] if server.slot_name else []
    return "\n".join((*keep, *renew, backup))
