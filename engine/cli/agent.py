"""`cellarman agent`: maintenance for ever, woken by WAL that arrives."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

from engine import config as config_
from engine import maintenance
from engine.cli.narration import Lines
from engine.config import Config, Server
from engine.errors import CellarmanError, Refused

INTERVAL = 60.0
"""Seconds between two passes when nothing arrives."""
LOOK = 1.0
"""Seconds between two looks at the queues; a directory's mtime changes with every file that arrives."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=float, default=INTERVAL, metavar="SECONDS", help="between passes when nothing arrives (60)"
    )


def run(args: argparse.Namespace, config: Config) -> int:
    if config.read_only:
        raise Refused("the agent does not run", "Cellarman runs read-only", "run it again without --read-only")
    stop = _Stop()
    say = Lines()
    say.note(f"watching {', '.join(config.servers) or 'no server'}; a look every {LOOK:g} s")
    told: list[str] = []
    while not stop.asked:
        config = _reread(args, config, say)
        problems = maintenance.pass_over(config, report=say)
        for problem in problems:
            if problem not in told:
                say.note(problem, "error")
        told = problems
        _watch(config, args.interval, stop, say)
    return 0


def _watch(config: Config, interval: float, stop: _Stop, say: Lines) -> None:
    """Until the interval is over, take in WAL as it arrives."""
    deadline = time.monotonic() + interval
    before = dict.fromkeys(config.servers, (0, 0))
    while not stop.asked and (left := deadline - time.monotonic()) > 0:
        for server in config.servers.values():
            now = _arrivals(server)
            if server.active and now != before[server.name]:
                before[server.name] = now
                for problem in maintenance.one_server(config, server, say, wal_only=True):
                    say.note(problem, "error")
        _reap()
        time.sleep(min(LOOK, left))


def _reread(args: argparse.Namespace, config: Config, say: Lines) -> Config:
    """Return the configuration as it is now; one that was broken meanwhile is said, and the old one kept."""
    try:
        return config_.load(args.config)
    except CellarmanError as error:
        say.note(f"the configuration is not taken over: {error}", "error")
        return config


def _arrivals(server: Server) -> tuple[int, int]:
    """Return when the server's queues last changed, in nanoseconds."""
    return _changed(server.layout.incoming), _changed(server.layout.streaming)


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # not made yet, or out of reach: the next pass says so


def _reap() -> None:
    """Take leave of receivers that were started here and have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


class _Stop:
    """Whether SIGTERM or SIGINT asked to end; the pass that runs is finished, a second signal ends at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)
        print("ending after this pass", file=sys.stderr, flush=True)
