"""`cellarman demo`: a disposable PostgreSQL with real backups, and the console on it."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from engine.config import Config
    from engine.demo.demo import Demo

NEEDS_CONFIG = False
INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """A signal asked for the end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--no-console", action="store_true", help="print the facts and wait for Ctrl-C")
    parser.add_argument("--dir", metavar="DIR", help="an empty or new directory to use (default: a temporary one)")


def run(args: argparse.Namespace, config: Config | None) -> int:
    """Build the demo, show it, and remove it, whatever ends it."""
    from engine.demo import account
    from engine.demo.demo import Demo

    console = not args.no_console and sys.stdin.isatty() and sys.stdout.isatty()
    if console:
        from tui import app

        app.refuse_terminal()  # before anything is made for it
    directory = os.path.abspath(args.dir) if args.dir is not None else None
    account.leave_root(directory, _words(args, directory))
    previous = {signum: signal.signal(signum, _end) for signum in ENDING}
    demo = None
    code = INTERRUPTED
    try:
        demo = Demo(directory, _say)
        config = demo.build()
        if console:
            code = _open_console(demo, args.read_only)
        else:
            demo.backup(config, "noon")
            _print_facts(demo)
            code = 0
            while True:
                signal.pause()
    except _Ended:
        pass
    finally:
        for signum in ENDING:
            signal.signal(signum, signal.SIG_IGN)
        if demo is not None:
            _say("stopping the demo")
            demo.clear()
            _say(f"stopped, and {demo.root} removed")
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return code


def _print_facts(demo: Demo) -> None:
    for name, value in demo.facts():
        print(f"{name + ':':<15}{value}")
    print("ready; Ctrl-C stops the demo and removes all of it", flush=True)


def _open_console(demo: Demo, read_only: bool) -> int:
    from engine.demo.demo import WATCHABLE
    from tui import app

    config = demo.configure(bandwidth_limit=WATCHABLE)
    demo.start_backup(config, "noon")
    code: int = app.run(config, read_only=read_only, demo_banner="DEMO")
    return code


def _end(signum: int, frame: FrameType | None) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise _Ended


def _words(args: argparse.Namespace, directory: str | None) -> list[str]:
    words = ["demo"]
    if args.no_console:
        words.append("--no-console")
    if directory is not None:
        words += ["--dir", directory]
    return words + [flag for flag, said in (("--read-only", args.read_only), ("--debug", args.debug)) if said]


def _say(line: str) -> None:
    try:
        print(f"demo: {line}", file=sys.stderr, flush=True)
    except OSError:
        return  # the terminal is gone; the demo is still to be cleared away
