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

CANCELLED = "cancelled by the operator"
"""Why what a job made is not finished, where the operator stopped it."""


class CellarmanError(Exception):
    """What happened (`what`), why (`why`, other programs' words verbatim), what to do now (`fix`)."""

    exit_code = 4

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def lines(self) -> list[str]:
        """Return the error as it is printed: one line each for what, why and what now."""
        rows = [self.what]
        if self.why:
            rows += [f"why: {line}" if i == 0 else f"     {line}" for i, line in enumerate(self.why.splitlines())]
        if self.fix:
            rows += [f"now: {line}" if i == 0 else f"     {line}" for i, line in enumerate(self.fix.splitlines())]
        return rows


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

    def __init__(self, what: str, why: str = "", fix: str = "", **found: object) -> None:
        """`found`: JSON-ready, what a job's result holds beside the error."""
        super().__init__(what, why, fix)
        self.found = found


class Cancelled(CellarmanError):
    """The operator stopped this work."""
