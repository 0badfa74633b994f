"""One SSH connection that the short commands of one piece of work go through (ControlMaster in ssh_config(5)).

A connection of its own costs both hosts a handshake, which is most of what a question or a small transfer takes. What
moves much is better off with one of its own: several then encrypt at once.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from types import TracebackType

from engine.host import local, openssh, scratch
from engine.host.ciphers import cheapest
from engine.host.endpoint import Endpoint

_LONGEST = 59
"""Bytes of the place for a socket's directory: the socket's path may have 107 (unix(7)), and ours and ssh's part of it
has 48."""


class Shared:
    """The connection; a context manager, at whose end it is closed. Nothing outlives this process."""

    def __init__(self, endpoint: Endpoint | None) -> None:
        """None: this host, to which nothing is connected."""
        self._plain = endpoint
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = ""
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Shared:
        if self._plain is not None:
            with contextlib.suppress(OSError):  # without it each command connects for itself, and says what is wrong
                self._start(self._plain)
        return self

    def _start(self, endpoint: Endpoint) -> None:
        place = tempfile.gettempdir()
        place = place if len(os.fsencode(place)) <= _LONGEST else "/tmp"
        self._directory = self._held.enter_context(scratch.directory(place))
        words = openssh.command(replace(endpoint, control=self._socket))
        self._process = local.start_leashed(
            [*words, *cheapest(endpoint), "-o", "ControlMaster=yes", "-N", openssh.destination(endpoint)]
        )

    @property
    def _socket(self) -> str:
        return os.path.join(self._directory, "ssh")

    def endpoint(self) -> Endpoint | None:
        """Return the host to go to through the connection, once that is made; the plain one where it was not, or was
        lost."""
        if self._plain is None or self._process is None:
            return self._plain
        deadline = time.monotonic() + self._plain.connect_timeout
        while self._process.poll() is None and time.monotonic() < deadline:
            if os.path.exists(self._socket):
                return replace(self._plain, control=self._socket)
            time.sleep(0.01)
        return self._plain

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            if self._process is not None:
                local.stop(self._process)
