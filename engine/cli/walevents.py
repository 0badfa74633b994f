"""`cellarman wal events`: restore points, drops, checkpoints, ends of backups, promotions, and what replay ends at."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engine.cli import output
from engine.config import Config, Server
from engine.errors import CellarmanError
from engine.postgres.clock import pg_time
from engine.postgres.lsn import Lsn
from engine.wal.indexschema import DROP, KINDS, RESTORE_POINT, Event

_BUDGET = 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=KINDS, action="append", default=[], help="only these; may be repeated")
    parser.add_argument("--last", metavar="N", type=int, default=0, help="only the last N")


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Print the events in the order of the WAL, timeline by timeline."""
    from engine.wal import index

    if not config.read_only:
        try:
            index.catch_up(server.layout, budget=_BUDGET)
        except CellarmanError as error:
            _warn(error)
    events = index.events(server.layout, *args.kind)
    shown = events[-args.last :] if args.last > 0 else events
    repeated = _repeated(events)
    rows = [_row(event, event.name in repeated) for event in shown]
    if args.json:
        output.json_out({"server": server.name, "events": rows})
    elif not rows:
        print("no events")
    else:
        table = [
            (output.when(row["at"]), row["timeline"], row["lsn"], row["kind"].replace("_", " "), row["detail"])
            for row in rows
        ]
        output.table(table, ("at", "timeline", "lsn", "event", "detail"), right={1})
    return 0


def _warn(error: CellarmanError) -> None:
    print(f"the index may lag: {output.printable(str(error))}", file=sys.stderr)


def _repeated(events: list[Event]) -> set[str]:
    """Return the names that more than one restore point has: recovery stops at the first."""
    seen: set[str] = set()
    twice: set[str] = set()
    for event in events:
        if event.kind == RESTORE_POINT:
            (twice if event.name in seen else seen).add(event.name)
    return twice


def _row(event: Event, repeated: bool) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "at": None if event.timestamp is None else pg_time(event.timestamp),
        "timeline": event.timeline,
        "lsn": str(Lsn(event.lsn)),
        "name": event.name or None,
        "xid": event.value if event.kind == DROP else None,
        "detail": _detail(event, repeated),
    }


def _detail(event: Event, repeated: bool) -> str:
    match event.kind:
        case "restore_point":
            return event.name + (" (more than once: recovery stops at the first)" if repeated else "")
        case "drop":
            return f"transaction {event.value} removed files"
        case "checkpoint":
            return f"redo {Lsn(event.value or 0)}"
        case "backup_end":
            return f"of the backup from {Lsn(event.value or 0)}"
        case "tablespace":
            return f"tablespace {event.value} was made in {event.name or 'the data directory'}"
        case "wal_level_minimal":
            return "no backup from before is replayed past it"
        case _:
            return f"promoted from timeline {event.value}"
