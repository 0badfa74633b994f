"""`cellarman wal timelines`: the tree of timelines, where each left its parent, and what the archive holds of it."""

from __future__ import annotations

import argparse
import sys

from engine.cli import output
from engine.config import Config, Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.wal.family import Branch


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="do not ask the server which timeline it is on")


def run(args: argparse.Namespace, config: Config, server: Server) -> int:
    """Print the timelines, parents before children."""
    from engine.wal.family import family

    branches, unknown = family(server, ask_server=not args.offline, read_only=config.read_only)
    if args.json:
        output.json_out({"server": server.name, "timelines": [branch.to_json() for branch in branches]})
    elif not branches:
        print("no timelines")
    else:
        output.table([_row(branch) for branch in branches], _HEADERS, right={3, 4})
    for sentence in unknown:
        print(f"unknown: {output.printable(sentence)}", file=sys.stderr)
    return 0


_HEADERS = ("timeline", "left", "at", "segments", "backups", "first", "last", "remarks")


def _row(branch: Branch) -> tuple[object, ...]:
    left = f"{branch.parent}" if branch.parent else None
    return (
        "  " * branch.depth + str(branch.timeline),
        left,
        branch.begin,
        branch.count,
        len(branch.backups),
        branch.first,
        branch.last,
        "; ".join(branch.remarks()),
    )
