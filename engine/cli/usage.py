"""Help and usage errors: one parser a verb, global flags described in each, and the nearest verb for a wrong one."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import NoReturn

from engine.cli.flags import Globals
from engine.cli.verbs import VERBS
from engine.errors import UsageError

GLOBALS = """\
global flags, before or after the verb:
  --config FILE  this configuration file alone (also: CELLARMAN_CONFIG)
  --read-only    change nothing, whatever is asked
  --json         one JSON document on standard output, for verbs that report
  --debug        a traceback with an error"""
EXITS = """\
exit codes:
  0 done and good · 1 done, and something is wrong · 2 wrong usage or
  configuration · 3 refused, with the reason · 4 tried and failed ·
  130 interrupted"""
OVERVIEW = """\
usage: cellarman [--config FILE] [--read-only]   the console
                 [--theme NAME] [--ascii] [--no-mouse]
       cellarman VERB …                          one verb; VERB --help tells more
       cellarman --version

Physical PostgreSQL backup and point-in-time recovery, on Barman's own catalogue.
Without a terminal, `cellarman` alone is `cellarman servers`."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are ours: what, why, what now."""

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if choice:
            near = _nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
            message += f"; nearest: {near}" if near else ""
        usage = " ".join(self.format_usage().split())
        raise UsageError(f"{self.prog}: {message}", usage, f"{self.prog} --help")


def parser(verb: str) -> Parser:
    """Return the parser of a verb, with its summary, its examples and the global flags in the help."""
    summary, examples, _ = VERBS[verb]
    return Parser(
        prog=f"cellarman {verb}",
        description=textwrap.fill(summary, 80),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples) + f"\n\n{GLOBALS}\n\n{EXITS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",
    )


def namespace(flags: Globals) -> argparse.Namespace:
    """Return the global flags as the start of a verb's arguments."""
    return argparse.Namespace(config=flags.config, read_only=flags.read_only, json=flags.json, debug=flags.debug)


def overview() -> str:
    """Return what `cellarman --help` prints, as wide as the terminal."""
    import shutil

    width = min(max(shutil.get_terminal_size().columns, 60), 120)
    names = max(map(len, VERBS)) + 4
    rows = [
        textwrap.fill(verb.summary, width, initial_indent=f"  {name}".ljust(names), subsequent_indent=" " * names)
        for name, verb in VERBS.items()
    ]
    return "\n".join([OVERVIEW, "", "verbs:", *rows, "", GLOBALS, "", EXITS])


def unknown_verb(name: str) -> UsageError:
    """Return the error for a verb that does not exist, with the nearest that does."""
    near = _nearest(name, list(VERBS))
    if name.startswith("-"):
        return UsageError(f"unknown flag {name}", "flags of a verb stand after the verb", "cellarman --help")
    why = f"nearest: {near}" if near else f"verbs: {', '.join(VERBS)}"
    return UsageError(f'unknown verb "{name}"', why, f"cellarman {near} --help" if near else "cellarman --help")


def _nearest(word: str, words: list[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(word, words, 1, 0.5)), "")
