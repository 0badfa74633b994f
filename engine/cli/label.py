"""`cellarman label`: a line about a backup, for people."""

from __future__ import annotations

import argparse

from engine.actions import Actions
from engine.cli import output
from engine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("backup", metavar="BACKUP", help="an id, a name, latest or oldest")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", metavar="TEXT", help="what to write about it, on one line")
    what.add_argument("--remove", dest="text", action="store_const", const="", help="take the label away")


def run(args: argparse.Namespace, config: Config) -> int:
    info = Actions(config, say=output.warn).label(args.server, args.backup, args.text)
    label = " ".join(args.text.split())
    if args.json:
        output.json_out({"server": args.server, "backup": info.id, "label": label or None})
    else:
        said = f"is labelled {output.printable(label)!r}" if label else "has no label"
        print(f"backup {info.id} {said}")
    return 0
