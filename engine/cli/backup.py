"""`cellarman backup`: take a backup as a job, and follow it."""

from __future__ import annotations

import argparse
from typing import Any

from engine.cli import following
from engine.config import Config
from engine.job import spec as spec_
from engine.repository import repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("--name", help="a name that the backup can be called by")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--wait", action="store_true", help="stay until it has ended (what happens anyway)")
    how.add_argument("--detach", action="store_true", help="print the job's id and leave")
    parser.add_argument(
        "--spread-checkpoint",
        action="store_true",
        help="wait for a spread checkpoint, whatever immediate_checkpoint says: slower, gentler",
    )


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    arguments: dict[str, Any] = {}
    if args.name is not None:
        repository.check_name(server.layout, args.name)
        arguments["name"] = args.name
    if args.spread_checkpoint:
        arguments["immediate"] = False
    spec = spec_.make(config, "backup", server.name, **arguments)
    return following.start(config, spec, detach=args.detach, as_json=args.json)
