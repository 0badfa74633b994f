"""`cellarman cron`: one maintenance pass over all servers."""

from __future__ import annotations

import argparse
import os
import sys

from engine import maintenance
from engine.cli import output
from engine.cli.narration import Lines
from engine.config import Config

_LOGINS = (b"sshd", b"dropbear")
"""Begins of the names of programs that let people in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace, config: Config) -> int:
    problems = maintenance.pass_over(config, report=Lines(), by_hand=_at_a_terminal() or _logged_in())
    if args.json:
        output.json_out({"problems": problems})
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
    return 1 if problems else 0


def _at_a_terminal() -> bool:
    """Tell whether this has a controlling terminal, as what somebody types has and what cron starts has not."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _logged_in() -> bool:
    """Tell whether a login over the network started this: `ssh host cellarman cron` has no terminal. Looked for among
    the processes above, since sudo leaves no trace of it in the environment."""
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
        except OSError:  # another account's, and hidden; or over meanwhile
            return False
        if name.startswith(_LOGINS):
            return True
        pid = int(rest.split()[1])
    return False
