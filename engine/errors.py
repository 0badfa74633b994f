"""One tree of errors; each says what happened, why, and what to do now.

::

    CellarmanError          exit 4  tried and failed
    ├── UsageError          exit 2  wrong usage
    │   ├── ConfigError             a configuration file that cannot be used
    │   │   └── NoConfiguration     there is none at all yet
    │   └── NotFound                no such server, backup, job, restore point
    ├── Refused             exit 3  will not, with the reason; nothing was touched
    ├── Busy                exit 4  somebody else holds the lock; named
    ├── Unproven            exit 4  done to its end, and what was to be shown is not so; holds what was found
    └── Cancelled           exit 4  the operator stopped it

Kept free of imports: the light WAL client loads it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.commands import Command

CANCELLED = "cancelled by the operator"
"""Why what a job made is not finished, where the operator stopped it."""


class Advice:
    """What to do now, in words and commands of ours: who shows it knows which configuration these have to name."""

    __slots__ = ("parts",)

    def __init__(self, *parts: str | Command | Advice) -> None:
        self.parts: tuple[str | Command, ...] = tuple(
            each for part in parts for each in (part.parts if isinstance(part, Advice) else (part,))
        )

    def __bool__(self) -> bool:
        return any(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Advice) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        return f"Advice{self.parts!r}"

    def text(self, config_file: str) -> str:
        """Return it as text; `config_file` as `Command.line` takes it.

        >>> from engine.commands import cellarman
        >>> Advice("take one: ", cellarman("backup", "a b")).text("/srv/c.toml")
        "take one: cellarman --config /srv/c.toml backup 'a b'"
        """
        return "".join(part if isinstance(part, str) else part.line(config_file) for part in self.parts)


def shown(words: str | Advice, config_file: str) -> str:
    """Return words as they are shown to somebody who has to name `config_file`, "" for nothing to name."""
    return words if isinstance(words, str) else words.text(config_file)


def one_a_line(words: Iterable[str | Advice]) -> Advice:
    """Return several things to do, each on a line; what is empty is left out."""
    there = [each for each in words if each]
    return Advice(*(part for i, each in enumerate(there) for part in (("\n", each) if i else (each,))))


class CellarmanError(Exception):
    """What happened (`what`), why (`why`, other programs' words verbatim), what to do now (`fix`)."""

    exit_code = 4

    def __init__(self, what: str, why: str = "", fix: str | Advice = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def now(self, config_file: str) -> str:
        """Return what to do now as text; `config_file` is the one to name in commands, "" when it is found anyway."""
        return shown(self.fix, config_file)

    def lines(self, config_file: str) -> list[str]:
        """Return the error as it is printed: one line each for what, why and what now, commands as `now` has them."""
        rows = [self.what]
        if self.why:
            rows += [f"why: {line}" if i == 0 else f"     {line}" for i, line in enumerate(self.why.splitlines())]
        now = self.now(config_file)
        return rows + [f"now: {line}" if i == 0 else f"     {line}" for i, line in enumerate(now.splitlines())]


class UsageError(CellarmanError):
    """The command or its arguments cannot be understood."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file that cannot be used; names file and line."""


class NoConfiguration(ConfigError):
    """There is no configuration at all yet, where one is looked for."""


class NotFound(UsageError):
    """No such server, backup, job or restore point."""


class Refused(CellarmanError):
    """Will not be done, for a reason; nothing was touched."""

    exit_code = 3


class Busy(CellarmanError):
    """Another process holds what this one needs; the message names it."""


class Unproven(CellarmanError):
    """The work was done to its end, and what it was to show is not so."""

    def __init__(self, what: str, why: str = "", fix: str | Advice = "", **found: object) -> None:
        """`found`: JSON-ready, what a job's result holds beside the error."""
        super().__init__(what, why, fix)
        self.found = found


class Cancelled(CellarmanError):
    """The operator stopped this work."""
