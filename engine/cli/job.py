"""`cellarman job follow|cancel`: look at one job, or stop it."""

from __future__ import annotations

import argparse
import sys

from engine.cli import following, output
from engine.config import Config
from engine.job import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="follow|cancel")
    for name, summary in (("follow", "show what it did and does, to its end"), ("cancel", "stop it and clean up")):
        verb = verbs.add_parser(name, help=summary, description=summary)
        verb.add_argument("job", metavar="ID", help="a job's id, its last four digits, or latest")


def run(args: argparse.Namespace, config: Config) -> int:
    if args.action == "follow":
        return following.watch(config, args.job, as_json=args.json)
    job = launch.cancel(config, args.job, say=output.warn)
    if args.json:
        output.json_out({"job": job, "status": "cancelled"})
    else:
        print(f"job {job} is stopped", file=sys.stderr)
    return 0
