"""`cellarman wal ACTION SERVER`: the WAL archive by hand, and what it holds and lacks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from engine import permission
from engine.cli import output, walevents, walfetch, walgaps, walmarks, waltimelines, walverify
from engine.config import Config, Server, load
from engine.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (summary, _, _) in ACTIONS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.add_argument("server", metavar="SERVER", help="a [servers.NAME] of the configuration")
        if name in OPTIONS:
            OPTIONS[name](verb)


def run(args: argparse.Namespace, config: Config) -> int:
    _, action, reports = ACTIONS[args.action]
    if args.json and not reports:
        raise UsageError(f"wal {args.action} has no --json form", fix="cellarman wal --help")
    return action(args, config, config.server(args.server))


def _ingest(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Run one pass; 1 when a file was refused."""
    permission.require("ingest", server.name, read_only=config.read_only)
    from engine.wal.ingest import ingest
    from engine.wal.receiver import LogReporter

    result = ingest(server, LogReporter())
    if args.json:
        output.json_out(
            {
                "server": server.name,
                "stored": list(result.stored),
                "duplicates": list(result.duplicates),
                "refused": [item._asdict() for item in result.refused],
                "arriving": list(result.arriving),
                "read_bytes": result.bytes_in,
                "stored_bytes": result.bytes_out,
            }
        )
    else:
        packed = f" ({output.size(result.bytes_in)} as {output.size(result.bytes_out)})" if result.stored else ""
        counts = (f"{len(result.duplicates)} were there", f"{len(result.refused)} refused")
        print(", ".join((f"{len(result.stored)} archived{packed}", *counts)))
        if result.arriving:
            print(f"still being written: {', '.join(map(output.printable, result.arriving))}")
        if result.refused:
            output.table(result.refused, ("file", "reason", "kept as"))
    return 1 if result.refused else 0


def _receive(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Run pg_receivewal in the foreground until a signal ends it."""
    permission.require("ingest", server.name, read_only=config.read_only)
    from engine.wal.receiver import LogReporter, receive

    receive(server, LogReporter(), lambda: load(args.config).server(server.name))
    return 0


def _reindex(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Rebuild the index of commit times from the archive."""
    permission.require("ingest", server.name, read_only=config.read_only)
    from engine.wal import index

    count = index.rebuild(server.layout)
    print(f"{count} segments indexed", file=sys.stderr if args.json else sys.stdout)
    return 0


Action = Callable[[argparse.Namespace, Config, Server], int]

ACTIONS: dict[str, tuple[str, Action, bool]] = {
    "ingest": ("Archive what arrived in incoming/ and streaming/: one pass over both queues.", _ingest, True),
    "gaps": ("What the archive lacks, what that costs, and what mends it.", walgaps.run, True),
    "timelines": ("The tree of timelines, and what the archive holds of each.", waltimelines.run, True),
    "events": ("Restore points, drops, checkpoints, ends of backups and promotions.", walevents.run, True),
    "verify": ("Read the archive whole, what was read longest ago first, and say what is bad.", walverify.run, True),
    "fetch-missing": ("Archive what is missing or bad from wherever a good copy is left.", walfetch.run, True),
    "switch": ("End the current WAL segment early, so that it is archived.", walmarks.switch, True),
    "restore-point": ("Make a named restore point on the server.", walmarks.restore_point, True),
    "receive": ("Receive WAL with pg_receivewal in the foreground until Ctrl-C.", _receive, False),
    "reindex": ("Rebuild the derived index of commit times and restore points.", _reindex, False),
}
"""Name to summary, function, and whether it has a --json form."""

OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "gaps": walgaps.add_options,
    "timelines": waltimelines.add_options,
    "events": walevents.add_options,
    "verify": walverify.add_options,
    "fetch-missing": walfetch.add_options,
    "restore-point": walmarks.add_options,
}
