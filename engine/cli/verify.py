"""`cellarman verify`: read every byte of a backup, as a job, and say what is wrong."""

from __future__ import annotations

import argparse

from engine.cli import following
from engine.config import Config
from engine.job import spec as spec_
from engine.repository import repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("server", metavar="SERVER")
    parser.add_argument("backup", metavar="BACKUP", help="an id, a name, latest or oldest")
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave")


def run(args: argparse.Namespace, config: Config) -> int:
    server = config.server(args.server)
    info = repository.find(server.layout, args.backup)
    spec = spec_.make(config, "verify", server.name, backup=info.id)
    return following.start(config, spec, detach=args.detach, as_json=args.json)
