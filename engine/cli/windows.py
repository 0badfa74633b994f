"""`cellarman windows`: the moments that can be reached."""

from __future__ import annotations

import argparse
import sys

from engine.cli import output
from engine.config import Config
from engine.recovery.reachable import reachable_windows
from engine.wal.findings import say_unproven


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    found, without = reachable_windows(server, read_only=config.read_only)
    for sentence in say_unproven(server):
        print(f"unknown: {sentence}", file=sys.stderr)
    if args.json:
        output.json_out({"server": server.name, "windows": [window.to_json() for window in found]})
        return 0
    if not found:
        print("no moment can be reached")
    else:
        rows = [
            (
                window.backup,
                window.timeline,
                output.when(window.from_time),
                output.when(window.to_time),
                window.from_lsn,
                window.to_lsn,
                window.bounded_by.replace("_", " ") + (f" {window.missing}" if window.missing else ""),
            )
            for window in found
        ]
        output.table(rows, ("backup", "timeline", "from", "to", "from LSN", "to LSN", "bounded by"), right={1})
    for miss in without:
        print(f"{miss.base.id} reaches nothing: {miss.why}", file=sys.stderr)
    return 0
