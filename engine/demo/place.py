"""The demo's directory, and everything that runs because of it: how both are found again and removed.

Every process of the demo inherits MARK=<directory> in its environment: so it is found, however it detached itself.
Jobs on the demo's repository that somebody started from another terminal are found by their journals in it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import tempfile
import time

from engine.errors import Refused

MARK = "DEMO_OF_CELLARMAN"
TOKEN = ".cellarman-demo"
"""A file in the directory; nothing without it is ever removed."""
NEEDED_BYTES = 600 * 1024**2
SOCKET_PATH_LIMIT = 107
"""Bytes that a socket's path may have on Linux (sun_path less its final zero)."""


def make(directory: str | None) -> str:
    """Make the demo's directory, `directory` or a temporary one, and return its path.

    Raises Refused when it is not empty, too long for a socket's name, or too small.
    """
    if directory is None:
        path = tempfile.mkdtemp(prefix="cellarman-demo-")
        removed_at_the_end = True
    else:
        path = os.path.abspath(directory)
        removed_at_the_end = not os.path.exists(path)
        os.makedirs(path, mode=0o700, exist_ok=True)
        if os.listdir(path):
            raise Refused(
                f"{path} is not empty",
                "the demo removes its directory at the end, so it takes only an empty or a new one",
                "cellarman demo --dir DIR, with a DIR that does not exist yet",
            )
        os.chmod(path, 0o700)
    if len(f"{path}/run/.s.PGSQL.5432.lock") > SOCKET_PATH_LIMIT:
        raise Refused(
            f"{path} is too long a path",
            f"PostgreSQL's socket lies in it, and a socket's path has at most {SOCKET_PATH_LIMIT} bytes",
            "cellarman demo --dir DIR, with a shorter DIR",
        )
    free = shutil.disk_usage(path).free
    if free < NEEDED_BYTES:
        raise Refused(
            f"{path} has too little space for the demo",
            f"{free // 1024**2} MiB free, {NEEDED_BYTES // 1024**2} MiB needed",
            "cellarman demo --dir DIR, on a file system with more space",
        )
    with open(os.path.join(path, TOKEN), "w") as token:
        token.write("whole\n" if removed_at_the_end else "contents\n")
    return path


def clear(path: str, patience: float = 8.0) -> list[int]:
    """End every process of the demo in `path`, remove the directory, and return the pids that would not end."""
    end = time.monotonic() + patience
    while True:
        left = _end_all(path, patience)
        if _remove(path) or time.monotonic() > end:
            return left
        time.sleep(0.05)


def processes(path: str) -> list[int]:
    """Return the pids of this account's processes that belong to the demo in `path`, this process left out.

    >>> processes("/nowhere")
    []
    """
    restored = _restored(path)
    found = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in found if _belongs(pid, path, restored) and not _is_zombie(pid)]


def _belongs(pid: int, path: str, restored: set[str]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"{MARK}={path}".encode() in file.read().split(b"\0"):
                return True
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if b"engine.job.worker" in words:
            return any(word.startswith(os.fsencode(path) + b"/") for word in words)
        return os.readlink(f"/proc/{pid}/cwd") in restored
    except OSError:
        return False  # it has ended, or is another account's


def _restored(path: str) -> set[str]:
    """Return where backups of the demo were restored to; PostgreSQL runs in its data directory."""
    found = set()
    for spec in glob.glob(os.path.join(glob.escape(path), "state", "jobs", "*", "spec.json")):
        with contextlib.suppress(OSError, ValueError, KeyError), open(spec, encoding="utf-8") as file:
            found.add(os.path.realpath(json.load(file)["arguments"]["destination"]))
    return found


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def _end_all(path: str, patience: float) -> list[int]:
    """End the demo's processes: ask, then kill, again and again, since one that ends may just have started another."""
    end = time.monotonic() + patience
    asked: set[int] = set()
    while found := processes(path):
        late = time.monotonic() > end - patience / 2
        for pid in found:
            if late or pid not in asked:
                _end(pid, kill=late)
                asked.add(pid)
        if time.monotonic() > end:
            return found
        time.sleep(0.05)
    return []


def _end(pid: int, kill: bool) -> None:
    """Send a server SIGQUIT, its immediate shutdown, which waits for no client and frees its shared memory."""
    with contextlib.suppress(OSError):
        server = os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "postgres"
        os.kill(pid, signal.SIGKILL if kill else signal.SIGQUIT if server else signal.SIGTERM)


def _remove(path: str) -> bool:
    """Remove the directory; False when something in it stays, as what a process wrote that was not seen yet."""
    try:
        with open(os.path.join(path, TOKEN)) as token:
            whole = token.read() == "whole\n"
    except OSError:
        return True
    for entry in os.scandir(path):
        if entry.name == TOKEN:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
    if os.listdir(path) != [TOKEN]:
        return False
    os.unlink(os.path.join(path, TOKEN))
    if whole:
        with contextlib.suppress(OSError):  # something new in it is not the demo's to remove
            os.rmdir(path)
    return True
