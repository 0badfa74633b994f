"""This host: a Machine, and programs that must not outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO

from engine import oserrors
from engine.errors import CellarmanError
from engine.host.machine import Done
from engine.host.problems import HostError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def _leash(parent: int) -> Callable[[], None]:
    """Return what the child does before exec: ask the kernel for SIGKILL when `parent` dies (prctl(2))."""

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the question
            os._exit(127)

    return ask


def start_leashed(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when this process dies, whatever kills it.

    The kernel watches the thread that forked, not the process: call it from the main thread, or from one that waits
    for the program. `env` is added to this process's environment. Raises OSError when the program cannot be started.
    """
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        preexec_fn=_leash(os.getpid()),
    )


def installed(name: str) -> str:
    """Return the absolute path of this installation's program of that name, "" when there is none."""
    for beside in (sys.executable, sys.argv[0]):
        path = os.path.join(os.path.dirname(os.path.abspath(beside)), name)
        if os.access(path, os.X_OK):
            return path
    return ""


def stop(process: subprocess.Popen[bytes], *, patience: float = 10.0) -> int:
    """End a child, by SIGTERM and after `patience` seconds by SIGKILL, and return its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class ThisHost:
    """The host that this process runs on, as a Machine."""

    name = "this host"
    endpoint = None

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0) -> Done:
        """Run a program to its end (`Machine.run`)."""
        try:
            done = subprocess.run(
                list(argv), input=stdin, capture_output=True, timeout=timeout, env={**os.environ, "LC_ALL": "C"}
            )
        except OSError as error:
            # A directory of PATH that may not be read is no reason to call a missing program forbidden.
            status = 127 if shutil.which(argv[0]) is None else 126
            return Done(status, b"", f"{argv[0]}: {error.strerror}".encode())
        except subprocess.TimeoutExpired as error:
            why = f"{argv[0]} had {timeout:g} s"
            raise HostError("timeout", self.name, f"{argv[0]} did not end in time", why, "try it by hand") from error
        return Done(done.returncode, done.stdout, done.stderr)

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """Return a file's bytes (`Machine.read`)."""
        try:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise oserrors.explain(error) from error
        if len(data) > limit:
            raise CellarmanError(f"{path} is too long", f"more than {limit} bytes", "see what it is")
        return data

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write a file whole or not at all (`Machine.write`)."""
        directory = os.path.dirname(path)
        temporary = ""
        try:
            fd, temporary = tempfile.mkstemp(prefix=".cellarman-", dir=directory)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            os.replace(temporary, path)
            temporary = ""
            parent = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise oserrors.explain(error) from error
        finally:
            if temporary:
                os.unlink(temporary)

    def close(self) -> None:
        """Do nothing: there is no link."""

    def __enter__(self) -> ThisHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
