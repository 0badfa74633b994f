"""A host on which programs are run and small files are read and written: this one, or one behind SSH."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from engine.host import problems
from engine.host.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Done:
    """What a program did; 127 with a message in `err` when there is no such program."""

    status: int
    out: bytes
    err: bytes

    @property
    def words(self) -> str:
        """What it said, for people: its standard error, or else its standard output."""
        return (self.err.strip() or self.out.strip()).decode(errors="replace")


class Machine(Protocol):
    """A host; also a context manager, which closes it."""

    @property
    def name(self) -> str:
        """ "this host", or the endpoint's text."""
        ...

    @property
    def endpoint(self) -> Endpoint | None:
        """None: this host."""
        ...

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Done:
        """Run a program to its end, every word of `argv` as it is, with LC_ALL=C.

        A non-zero status is no exception. Raises HostError when the link or the shell fails, or time (seconds) is up.
        """
        ...

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError, and CellarmanError when it is longer or cannot be read."""
        ...

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write a file whole or not at all: a temporary name, fsync, rename, fsync of the directory."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Machine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def machine(endpoint: Endpoint | None) -> Machine:
    """Return this host for None, else the host there, connected. Raises HostError."""
    if endpoint is None:
        from engine.host.local import ThisHost

        return ThisHost()
    from engine.host.ssh import connect  # paramiko is slow to import

    return connect(endpoint)


def must(host: Machine, argv: Sequence[str], what: str, *, stdin: bytes = b"", timeout: float = 60.0) -> bytes:
    """Run a program that has to succeed and return its output; raises the error that `problems.failed` makes."""
    done = host.run(argv, stdin=stdin, timeout=timeout)
    if done.status != 0:
        raise problems.failed(host.name, argv[0], what, done.status, done.words)
    return done.out
