"""`cellarman cron`: one maintenance pass over all servers."""

from __future__ import annotations

import argparse
import sys

from engine import maintenance
from engine.cli import output
from engine.cli.narration import Lines
from engine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace, config: Config) -> int:
    problems = maintenance.pass_over(config, report=Lines())
    if args.json:
        output.json_out({"problems": problems})
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
    return 1 if problems else 0
