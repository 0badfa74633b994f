"""`cellarman import-barman`: a Barman configuration as cellarman.toml."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from engine.cli import output
from engine.config import InvalidConfig, load
from engine.config.barmanconf import read
from engine.config.importing import Import
from engine.postgres import dsn

NEEDS_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="the main file, such as /etc/barman.conf; those it includes are read too"
    )


def run(args: argparse.Namespace, config: object) -> int:
    """Return 0, or 1 when cellarman itself would refuse what came out."""
    work = Import(read(os.path.abspath(os.path.expanduser(args.file))))
    text = work.toml()
    sys.stdout.write(text)
    problems = _problems(text)
    for line in [*work.lost, *problems]:
        print(output.printable(dsn.redact(line)), file=sys.stderr)
    return 1 if problems else 0


def _problems(text: str) -> list[str]:
    """Return what cellarman would refuse in a configuration of this text."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:  # mode 0600
        file.write(text)
        file.flush()
        try:
            load(file.name, env={})
        except InvalidConfig as error:
            return [f"line {problem.source.line}: {problem.what}; {problem.fix}" for problem in error.problems]
    return []
