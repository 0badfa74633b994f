"""What mends something that was found: commands, and words around them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from engine.commands import Command, wal_push
from engine.errors import Advice, shown


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: a command, words, or both."""

    command: Command | None = None
    before: str | Advice = ""
    after: str | Advice = ""

    def text(self, config_file: str = "") -> str:
        command = self.command.line(config_file) if self.command else ""
        return f"{shown(self.before, config_file)}{command}{shown(self.after, config_file)}"


@dataclass(frozen=True, slots=True)
class Remedy:
    """Things to do, each for when the one before it finds nothing; false when nothing is known."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def otherwise(self, other: Remedy) -> Remedy:
        """Return this one, and another for when it finds nothing."""
        return Remedy((*self.steps, *other.steps))

    @property
    def commands(self) -> tuple[Command, ...]:
        """All commands in it."""
        return tuple(step.command for step in self.steps if step.command is not None)

    def begins(self, *verb: str) -> bool:
        """Tell whether the first thing to do is a command of this verb, with no words before it."""
        first = self.steps[0] if self.steps else Step()
        return first.command is not None and not first.before and first.command.does(*verb)

    def text(self, config_file: str = "") -> str:
        """Return it as a sentence; `config_file` as `Command.line` takes it.

        >>> from engine.commands import cellarman
        >>> print(run(cellarman("wal", "fetch-missing", "main")).otherwise(run(cellarman("backup", "main"))).text())
        cellarman wal fetch-missing main; if that finds nothing: cellarman backup main
        """
        return "; if that finds nothing: ".join(step.text(config_file) for step in self.steps)

    def lines(self, config_file: str = "") -> list[str]:
        """Return it for a shell, a step a line, what is no command as a comment where it follows one.

        >>> from engine.commands import cellarman
        >>> look = run(cellarman("wal", "fetch-missing", "main"))
        >>> print("\\n".join(look.otherwise(run(cellarman("backup", "main"))).lines()))
        cellarman wal fetch-missing main
        cellarman backup main  # if that finds nothing
        >>> look.otherwise(words("look in its standbys")).lines()[1]
        '# else: look in its standbys'
        """
        first, *others = self.steps or (Step(),)
        return [
            first.text(config_file),
            *(
                f"{step.text(config_file)}  # if that finds nothing"
                if step.command is not None and not step.before
                else f"# else: {step.text(config_file)}"
                for step in others
            ),
        ]


NOTHING = Remedy()


def run(command: Command, *, before: str | Advice = "", after: str | Advice = "") -> Remedy:
    """Return that a command is to be run, with words around it."""
    return Remedy((Step(command, before, after),))


def words(text: str | Advice) -> Remedy:
    """Return something to do that is no command of ours."""
    return Remedy((Step(before=text),)) if text else NOTHING


def push_copy(path: str, name: str, server: str) -> Remedy:
    """Return what archives a file under another name than it has: a copy of it is pushed."""
    copy = f"/tmp/{name}"
    return run(wal_push(copy, server), before=f"cp {shlex.quote(path)} {copy} && ")
