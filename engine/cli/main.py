"""The entry of `cellarman`: finds the verb, loads the configuration, runs the verb, and turns errors into exit codes.

A verb is the module `engine.cli.<verb>`, imported only when called, with `add_arguments(parser)` and
`run(args, config) -> int`. `NEEDS_CONFIG = False` in the module leaves the configuration unread (None is passed).
Exit codes: 0 good, 1 something is wrong, 2 usage or configuration, 3 refused, 4 failed, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys

from engine.cli.flags import Globals, split_globals
from engine.errors import CellarmanError, NoConfiguration, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from types import ModuleType

    from engine.config import Config

INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    flags = Globals()
    try:
        code = _run(words, flags)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except CellarmanError as error:
        _debug(flags)
        _say("\n".join(error.lines(_named(flags))))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception as error:  # the outermost edge: a defect too is three lines and an exit code
        _debug(flags)
        _say("\n".join(_unexpected(error).lines(_named(flags))))
        if isinstance(error, OSError):
            _drop_stdout()
        return CellarmanError.exit_code


def _run(words: list[str], flags: Globals) -> int:
    rest = split_globals(words, flags)
    if not rest:
        return _without_verb(flags)
    verb, arguments = rest[0], rest[1:]
    if verb in ("--version", "-V"):
        from engine import __version__

        print(f"cellarman {__version__} (Python {sys.version.split()[0]})")
        return 0
    if verb in ("--help", "-h", "help"):
        from engine.cli import usage

        if verb == "help" and arguments:
            return _verb(arguments[0], ["--help"], flags)
        print(usage.overview())
        return 0
    return _verb(verb, arguments, flags)


def _without_verb(flags: Globals) -> int:
    """Open the console; without a terminal list the servers."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()) or flags.json:
        return _verb("servers", [], flags)
    try:
        config = _load(flags)
    except NoConfiguration:
        config = _nothing_yet()
    gc.disable()  # nothing that the start makes is garbage; the console turns it on again
    from tui.app import run

    code: int = run(
        config,
        read_only=config.read_only,
        theme=flags.theme,
        ascii_only=flags.ascii or None,
        mouse=False if flags.no_mouse else None,
    )
    return code


def _verb(name: str, arguments: list[str], flags: Globals) -> int:
    import importlib

    from engine.cli import usage
    from engine.cli.verbs import VERBS

    if name not in VERBS:
        raise usage.unknown_verb(name)
    if flags.of_console:
        raise UsageError("--theme, --ascii and --no-mouse are for the console alone", fix="cellarman --help")
    if flags.json and not VERBS[name].json:
        raise UsageError(f"cellarman {name} has no --json form", fix=f"cellarman {name} --help")
    module: ModuleType = importlib.import_module(f"engine.cli.{name.replace('-', '_')}")
    parser = usage.parser(name)
    module.add_arguments(parser)
    args: argparse.Namespace = parser.parse_args(arguments, usage.namespace(flags))
    config = _load(flags) if getattr(module, "NEEDS_CONFIG", True) else None
    code: int = module.run(args, config)
    return code


def _load(flags: Globals) -> Config:
    from engine import config

    return config.load(flags.config, read_only=flags.read_only)


def _named(flags: Globals) -> str:
    """Return the configuration file to name in commands; the configuration itself may not have been read."""
    from engine.config import places

    try:
        return places.told(flags.config, os.environ)
    except OSError:
        return flags.config or ""  # the working directory is gone


def _nothing_yet() -> Config:
    """Return a configuration without servers: the console then says what to write, and where."""
    from engine.config import Config, places

    return Config("", places.state_directory(os.environ, os.getuid()), {}, files=(places.own_file(os.environ),))


def _unexpected(error: Exception) -> CellarmanError:
    kind = type(error).__name__
    if isinstance(error, OSError):
        from engine.oserrors import explain

        return explain(error)
    return CellarmanError(
        "this is a defect of cellarman, not of your data", f"{kind}: {error}", "run it again with --debug and report it"
    )


def _debug(flags: Globals) -> None:
    """Show the traceback that is being handled, when asked for."""
    if flags.debug:
        import traceback

        _say(traceback.format_exc().rstrip())


def _say(text: str) -> None:
    """Print to standard error, never with a password in it, and never failing."""
    from engine.postgres.dsn import redact

    try:
        print(redact(text), file=sys.stderr, flush=True)
    except OSError:
        return  # nobody is left to tell


def _drop_stdout() -> None:
    """Keep the interpreter from complaining, at exit, about output that nobody takes."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
