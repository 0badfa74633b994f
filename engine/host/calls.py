"""A host behind the OpenSSH client, a connection a call: for a few questions by the way that rsync will go too.

Many questions are better put through `engine.host.ssh`, which keeps its connection, and costs a worker 20 MB.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace

from engine.errors import CellarmanError
from engine.host import openssh
from engine.host.endpoint import Endpoint
from engine.host.local import ThisHost
from engine.host.machine import Done
from engine.host.problems import HostError, explain_openssh, host_error

_ABSENT = 44
_READ = f'[ -e "$1" ] || exit {_ABSENT}; exec head -c "$2" -- "$1"'


class Calls:
    """Runs programs and reads small files there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = str(endpoint)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Done:
        """Run a program to its end, as `Machine.run` does. Raises HostError."""
        words = [
            *openssh.command(self.endpoint),
            openssh.destination(self.endpoint),
            openssh.remote_command(argv),
        ]
        try:
            done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout)
        except OSError as error:
            raise CellarmanError("ssh could not be started here", str(error), "install openssh-client") from error
        except subprocess.TimeoutExpired as error:
            raise host_error("timeout", self.endpoint, f"{argv[0]} had {timeout:g} s") from error
        if done.returncode == 255:
            raise _explained(self.endpoint, done.stderr.decode(errors="replace"))
        return Done(done.returncode, done.stdout, done.stderr)

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError, and CellarmanError when it is longer or cannot be read."""
        done = self.run(["sh", "-c", _READ, "sh", path, str(limit + 1)])
        if done.status == _ABSENT:
            raise FileNotFoundError(path)
        if done.status != 0 or len(done.out) > limit:
            why = done.words if done.status else f"it is longer than {limit} bytes"
            raise CellarmanError(f"{path} on {self.name} cannot be read", why, "let the account there read it")
        return done.out


def _explained(endpoint: Endpoint, words: str) -> HostError:
    """Return what ssh's words mean; of a host key that is not the known one, with the fingerprint of what is shown,
    which ssh does not tell without a terminal."""
    error = explain_openssh(endpoint, 255, words)
    if error.kind not in ("unknown_host_key", "host_key_changed"):
        return error
    from engine.host import ssh  # costs memory, which a job that goes well has no need of

    try:
        ssh.connect(replace(endpoint, control="")).close()
    except HostError as told:
        return told if told.kind == error.kind else error
    return error


def host(endpoint: Endpoint | None) -> Calls | ThisHost:
    """Return this host for None, else the one there; nothing is connected yet."""
    return ThisHost() if endpoint is None else Calls(endpoint)
