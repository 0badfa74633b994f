"""Programs run on this host that must not outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO

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
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills when this process dies, whatever kills it.

    Call it from the main thread: the kernel watches the thread that forked, not the process. `env` is added to
    this process's environment. Raises OSError when the program cannot be started.
    """
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        preexec_fn=_leash(os.getpid()),
    )


def stop(process: subprocess.Popen[bytes], *, patience: float = 10.0) -> int:
    """End a child, by SIGTERM and after `patience` seconds by SIGKILL, and return its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
