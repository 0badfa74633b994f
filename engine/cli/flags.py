"""The global flags, which may stand before or after the verb."""

from __future__ import annotations

from engine.errors import UsageError

SWITCHES = {"--read-only": "read_only", "--json": "json", "--debug": "debug"}
CONSOLE = {"--ascii": "ascii", "--no-mouse": "no_mouse"}
"""Those of the console, which has no verb."""


class Globals:
    """What the global flags say."""

    __slots__ = ("ascii", "config", "debug", "json", "no_mouse", "read_only", "theme")

    def __init__(self) -> None:
        self.config: str | None = None
        self.read_only = False
        self.json = False
        self.debug = False
        self.theme = ""
        self.ascii = False
        self.no_mouse = False

    @property
    def of_console(self) -> bool:
        """Whether something was said that only the console knows."""
        return bool(self.theme or self.ascii or self.no_mouse)


def split_globals(words: list[str], flags: Globals) -> list[str]:
    """Take the global flags out of the command line, wherever they stand before a `--`; return the rest."""
    rest: list[str] = []
    queue = iter(words)
    for word in queue:
        if word == "--":
            return [*rest, word, *queue]
        if word in SWITCHES:
            setattr(flags, SWITCHES[word], True)
        elif word in CONSOLE and not rest:
            setattr(flags, CONSOLE[word], True)
        elif word == "--theme" and not rest:
            flags.theme = next(queue, "")
            if not flags.theme:
                raise UsageError("--theme needs a name", fix="cellarman --theme light")
        elif word == "--config":
            flags.config = next(queue, "")
        elif word.startswith("--config="):
            flags.config = word.partition("=")[2]
        else:
            rest.append(word)
            continue
        if flags.config == "":
            raise UsageError("--config needs a file", fix="cellarman --config FILE …")
    return rest
