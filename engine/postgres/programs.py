"""PostgreSQL's own programs on this machine: where they are, how old they are, what they can do."""

from __future__ import annotations

import functools
import glob
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import CellarmanError, Refused

_SEARCHED = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
)
"""Where distributions put them: Debian, the PGDG's RPMs, a build from source, Homebrew."""
_SAME_MAJOR = frozenset(
    {
        "initdb",
        "pg_checksums",
        "pg_combinebackup",
        "pg_controldata",
        "pg_ctl",
        "pg_resetwal",
        "pg_rewind",
        "pg_verifybackup",
        "pg_waldump",
        "postgres",
    }
)
"""Programs that read the data directory's own formats and so must be of its major version; the rest may be newer."""
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
_TIMEOUT = 10
_NO_SERVER = "/nonexistent"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was found and asked for its version."""

    name: str
    path: str
    version: tuple[int, int]

    @property
    def major(self) -> int:
        return self.version[0]


def find(name: str, path_prefix: str = "", need_major: int | None = None) -> Program:
    """Return the program `name` that suits a server of `need_major`; raises Refused, saying what to install.

    Looked for in `path_prefix` (a directory, or several as in PATH), in PATH, then where distributions put them. Of
    those that suit, one in `path_prefix` wins, then one of the server's own major, then the newest.
    """
    found = list(_candidates(name, path_prefix))
    suitable = [program for program in found if _suits(program, need_major)]
    if not suitable:
        raise _none_suits(name, path_prefix, need_major, found)
    preferred = _directories(path_prefix)
    return min(
        suitable,
        key=lambda program: (
            os.path.dirname(program.path) not in preferred,
            program.major != need_major,
            tuple(-part for part in program.version),
        ),
    )


def _suits(program: Program, need_major: int | None) -> bool:
    if need_major is None:
        return True
    return program.major == need_major if program.name in _SAME_MAJOR else program.major >= need_major


def _candidates(name: str, path_prefix: str) -> Iterator[Program]:
    directories = _directories(path_prefix) + _directories(os.environ.get("PATH", os.defpath))
    for pattern in _SEARCHED:
        directories += sorted(glob.glob(pattern))
    seen: set[str] = set()
    for directory in directories:
        path = os.path.join(directory, name)
        real = os.path.realpath(path)
        # Debian's /usr/bin/pg_* are a wrapper that picks a cluster; the real ones are found below /usr/lib.
        if real in seen or os.path.basename(real) == "pg_wrapper" or not os.access(path, os.X_OK):
            continue
        seen.add(real)
        version = _version(path, os.stat(path).st_mtime_ns)
        if version is not None:
            yield Program(name, path, version)


def _directories(text: str) -> list[str]:
    return [os.path.abspath(os.path.expanduser(part)) for part in text.split(os.pathsep) if part]


@functools.lru_cache(maxsize=256)
def _version(path: str, mtime_ns: int) -> tuple[int, int] | None:
    del mtime_ns  # part of the cache's key: a program that was upgraded is asked again
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _none_suits(name: str, path_prefix: str, need_major: int | None, found: list[Program]) -> CellarmanError:
    where = f"path_prefix = {path_prefix}, PATH, " if path_prefix else "PATH, "
    install = f"PostgreSQL {need_major}'s programs" if need_major else "PostgreSQL's client programs"
    package = f"postgresql-{need_major}" if name in _SAME_MAJOR else f"postgresql-client-{need_major}"
    fix = (
        f"install {install}" + (f" (Debian and Ubuntu: apt install {package})" if need_major else "")
    ) + ", or set path_prefix of this server to the directory that holds them"
    if not found:
        return Refused(f"{name} was not found", f"looked in {where}{', '.join(_SEARCHED)}", fix)
    have = "\n".join(f"{p.path} is {p.version[0]}.{p.version[1]}" for p in found)
    need = f"of version {need_major} itself" if name in _SAME_MAJOR else f"of version {need_major} or newer"
    return Refused(f"no {name} here suits a PostgreSQL {need_major} server: it must be {need}", have, fix)


def supports(program: Program, algorithm: str) -> str | None:
    """Return None when this pg_basebackup can compress with `algorithm` (gzip, lz4, zstd) itself, else why not.

    No server is needed: since 16 the program refuses an algorithm that its build lacks before it connects; 15 refuses
    only afterwards, so there the words of its refusal, which only a build without the library holds, are looked up.
    """
    if algorithm == "none":
        return None
    if program.major < 15:
        return None if algorithm == "gzip" else f"{_named(program)} knows only gzip; {algorithm} came with 15"
    if program.major == 15:
        return _compiled_out(program, algorithm)
    refusal = _refusal(program.path, algorithm, os.stat(program.path).st_mtime_ns)
    return f"{_named(program)}: {refusal}" if refusal else None


@functools.lru_cache(maxsize=64)
def _refusal(path: str, algorithm: str, mtime_ns: int) -> str:
    del mtime_ns
    arguments = ["-D", "-", "-F", "t", "-X", "none", f"--compress=client-{algorithm}", "-h", _NO_SERVER, "-w"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    answer = subprocess.run(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**environment, "LC_ALL": "C"},
        timeout=_TIMEOUT,
        check=False,
    )
    said = answer.stderr.strip().splitlines()
    if any(_NO_SERVER in line for line in said):
        return ""
    return said[0].removeprefix("pg_basebackup: error: ") if said else f"exit code {answer.returncode}"


def _compiled_out(program: Program, algorithm: str) -> str | None:
    refusal = f"this build does not support {algorithm} compression"
    with open(program.path, "rb") as stream:
        return f"{_named(program)}: {refusal}" if refusal.encode() in stream.read() else None


def _named(program: Program) -> str:
    return f"{program.path} ({program.version[0]}.{program.version[1]})"
