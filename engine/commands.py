"""Command lines of ours as values: words where it is known what to run, text where it is shown."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

_CELLARMAN, _CELLARMAN_WAL = "cellarman", "cellarman-wal"


@dataclass(frozen=True, slots=True)
class Command:
    """A command line of ours, for a person or a crontab, without the configuration: who shows it knows that."""

    words: tuple[str, ...]
    """From the verb on, not quoted."""
    program: str = _CELLARMAN
    """Its name, or where it is installed."""

    def line(self, config_file: str = "") -> str:
        """Return the text for a shell; `config_file` is the one to name, "" when the program finds it by itself.

        >>> cellarman("backup", "main").line("/srv/a b.toml")
        "cellarman --config '/srv/a b.toml' backup main"
        >>> wal_push("/tmp/it", "main").line("/srv/c.toml")
        'cellarman-wal push /tmp/it --server main --config /srv/c.toml'
        """
        named = ["--config", config_file] if config_file else []
        if os.path.basename(self.program) == _CELLARMAN:
            return shlex.join([self.program, *named, *self.words])
        return shlex.join([self.program, *self.words, *named])

    def does(self, *verb: str) -> bool:
        """Tell whether it is of this verb.

        >>> cellarman("wal", "gaps", "main").does("wal", "gaps"), cellarman("wal", "gaps", "main").does("backup")
        (True, False)
        """
        return self.words[: len(verb)] == verb


def cellarman(*words: str) -> Command:
    return Command(words)


def wal_push(path: str, server: str) -> Command:
    """Return the command that archives a file of WAL as archive_command does."""
    return Command(("push", path, "--server", server), _CELLARMAN_WAL)
