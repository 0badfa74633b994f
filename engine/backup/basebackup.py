"""pg_basebackup: how it is called, what it says, and the process that runs it.

Source for options and messages: src/bin/pg_basebackup/pg_basebackup.c. It is run in the C locale and with --verbose
and --progress, so that its lines tell where it is.
"""

from __future__ import annotations

import errno
import os
import re
import select
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.config import Server
from engine.errors import CellarmanError
from engine.host import local
from engine.oserrors import advice

EXTENSIONS: Mapping[str, str] = {"none": "", "gzip": ".gz", "lz4": ".lz4", "zstd": ".zst"}
_KNOWN = re.compile(r"NOTICE:\s+(WAL archiving is not enabled|all required WAL segments have been archived)")
"""What the server says of its archive_command; that all WAL arrives is looked after here."""
_BAD = re.compile(r"(error|fatal|FATAL|ERROR|PANIC):")
_PROGRESS = re.compile(r"\s*(\d+)/(\d+) kB \((\d+)%\), \d+/\d+ tablespaces?")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a backup looks like on disk, and who compresses it."""

    tar: bool = False
    codec: str = "none"
    """none, gzip, lz4 or zstd; of the tar files, or, for a plain backup, of the way here."""
    location: str = "server"
    """server or client."""
    level: int | None = None
    workers: int | None = None

    @property
    def compression(self) -> str | None:
        """What backup.info says: set only when the data are tar files."""
        return self.codec if self.tar else None

    @property
    def base_tar(self) -> str:
        return f"base.tar{EXTENSIONS[self.codec]}"

    def __str__(self) -> str:
        """
        >>> str(Shape()), str(Shape(True, "zstd")), str(Shape(False, "lz4"))
        ('plain', 'tar, zstd by the server', 'plain, lz4 on the way')
        """
        form = "tar" if self.tar else "plain"
        if self.codec == "none":
            return form
        return f"{form}, {self.codec} " + (f"by the {self.location}" if self.tar else "on the way")


def shape_of(server: Server) -> Shape:
    """Return the shape that the configuration asks for."""
    if server.backup_compression == "none":
        return Shape()
    return Shape(
        tar=server.backup_compression_format == "tar",
        codec=server.backup_compression,
        location=server.backup_compression_location,
        level=server.backup_compression_level,
        workers=server.backup_compression_workers,
    )


def compress_option(shape: Shape, program_major: int) -> list[str]:
    """Return the options that make pg_basebackup compress; before 15 it knows only gzip, by itself.

    >>> compress_option(Shape(True, "zstd", "server", 1, 2), 15)
    ['--compress=server-zstd:level=1,workers=2']
    >>> compress_option(Shape(True, "gzip", "client", 6), 14), compress_option(Shape(), 18)
    (['--gzip', '--compress=6'], ['--compress=none'])
    """
    if program_major < 15:
        if shape.codec == "none":
            return []
        return ["--gzip", *([f"--compress={shape.level}"] if shape.level is not None else [])]
    if shape.codec == "none":
        return ["--compress=none"]
    details = [f"level={shape.level}"] if shape.level is not None else []
    details += [f"workers={shape.workers}"] if shape.workers and shape.codec == "zstd" else []
    return [f"--compress={shape.location}-{shape.codec}" + (":" + ",".join(details) if details else "")]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of pg_basebackup; `conninfo` holds no password, that goes by `env`."""

    program: str
    program_major: int
    conninfo: str
    env: Mapping[str, str]
    data: str
    shape: Shape
    label: str
    tablespaces: Sequence[tuple[str, str]] = ()
    """(location on the server, directory here)."""
    fast: bool = False
    rate: int = 0
    """Kilobytes a second, 0 for no limit."""

    def argv(self) -> list[str]:
        """Return the command line."""
        words = [
            self.program,
            f"--dbname={self.conninfo}",
            f"--pgdata={self.data}",
            f"--format={'tar' if self.shape.tar else 'plain'}",
            "--wal-method=none",
            "--no-password",
            "--no-sync",  # done here afterwards, many files at once
            f"--checkpoint={'fast' if self.fast else 'spread'}",
            f"--label={self.label}",
            "--progress",
            "--verbose",
            *compress_option(self.shape, self.program_major),
        ]
        if self.rate:
            words.append(f"--max-rate={self.rate}k")
        if not self.shape.tar:
            for there, here in self.tablespaces:
                words.append(f"--tablespace-mapping={_mapped(there)}={_mapped(here)}")
        return words


def _mapped(path: str) -> str:
    """Quote a path for --tablespace-mapping, where = and backslash have a meaning."""
    return path.replace("\\", "\\\\").replace("=", "\\=")


@dataclass(frozen=True, slots=True)
class Tick:
    """What is known of a running pg_basebackup; bytes are its own count, of what it has received."""

    phase: str
    """checkpoint, copy."""
    received: int | None = None
    total: int | None = None


def run(call: Call, on_tick: Callable[[Tick], None], on_line: Callable[[str], None], *, interval: float = 0.5) -> None:
    """Run pg_basebackup to its end; `on_tick` is called about every `interval` seconds, `on_line` for what it says.

    Whatever goes wrong here, or kills this process, the program does not outlive it. Raises CellarmanError with its
    own last words when it fails.
    """
    try:
        process = local.start_leashed(
            call.argv(),
            env={"LC_ALL": "C", "LC_MESSAGES": "C", **call.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise CellarmanError("pg_basebackup could not be started", str(error)) from error
    listener = Listener(on_line)
    assert process.stderr is not None
    with process, process.stderr as stream:
        try:
            fd = stream.fileno()
            while True:
                ready, _, _ = select.select([fd], [], [], interval)
                if ready:
                    block = os.read(fd, 1 << 16)
                    if not block:
                        break
                    listener.feed(block)
                on_tick(listener.tick)
            status = process.wait()
        finally:
            local.stop(process)
    if status:
        why = failure(listener.last) or "it said nothing"
        full = os.strerror(errno.ENOSPC) in why
        fix = advice(errno.ENOSPC, call.data) if full else "put right what it names, then back up again"
        raise CellarmanError(f"pg_basebackup failed ({_ended(status)})", why, fix)


def failure(lines: Iterable[str]) -> str:
    """Return what pg_basebackup said when it failed, without what it said while all was well.

    >>> failure(["checkpoint completed", "error: no space", "HINT:  none", "removing data directory \\"x\\""])
    'error: no space\\nHINT:  none'
    """
    said = [line for line in lines if not line.startswith("removing ")]
    first = next((at for at, line in enumerate(said) if _BAD.match(line)), 0)
    return "\n".join(said[first:])


def _ended(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


class Listener:
    """Reads what pg_basebackup prints: progress, the phase that it is in, and words for the log."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.tick = Tick("checkpoint")
        self.last: deque[str] = deque(maxlen=12)
        """Its last lines that are not progress, without its name."""
        self._on_line = on_line
        self._rest = b""

    def feed(self, block: bytes) -> None:
        """Take more of its standard error."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + block)
        for line in lines:
            self._line(line.decode(errors="replace"))

    def _line(self, line: str) -> None:
        progress = _PROGRESS.match(line)
        if progress:
            self.tick = Tick("copy", int(progress[1]) * 1024, int(progress[2]) * 1024)
            return
        text = line.removeprefix("pg_basebackup: ").strip()
        if not text or text == "waiting for checkpoint" or _KNOWN.match(text):
            return
        if text.startswith(("checkpoint completed", "write-ahead log start point")):
            self.tick = Tick("copy", self.tick.received, self.tick.total)
        self.last.append(text)
        self._on_line(text)
