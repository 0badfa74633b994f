"""Reading a backup's files against its manifest, by ourselves: plain directories, and tar files of any codec.

What the manifest does not hold and may be there: the manifest itself, pg_wal, and what a restore writes (as
pg_verifybackup has it, src/bin/pg_verifybackup/pg_verifybackup.c).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol

import google_crc32c

from engine.backup.basebackup import EXTENSIONS
from engine.backup.expected import Expected
from engine.errors import CellarmanError
from engine.postgres.manifest import ManifestFile
from engine.repository.backupinfo import BackupInfo
from engine.repository.layout import Layout

MANIFEST = "backup_manifest"
_BLOCK = 1 << 18
_MOST_MISSING = 1000
"""Findings of missing files that are enough to say that a backup is not whole."""
_EXTRA = frozenset((MANIFEST, "postgresql.auto.conf", "recovery.signal", "standby.signal"))
_TAR = re.compile(r"(base|\d+)\.tar(\.gz|\.lz4|\.zst)?")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a path inside the backup or a WAL file's name, and what is wrong with it."""

    path: str
    problem: str


@dataclass
class Reading:
    """What reading brought so far."""

    progress: Callable[[int, int], None]
    """Called with bytes and files read."""
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    bytes: int = 0

    def find(self, path: str, problem: str) -> None:
        self.findings.append(Finding(path, problem))

    def add(self, other: Reading, backup: str) -> None:
        """Add what reading another backup brought, whose id goes before the paths."""
        self.findings += [Finding(f"{backup}/{found.path}", found.problem) for found in other.findings]
        self.files += other.files
        self.bytes += other.bytes


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc32c:
    """CRC-32C as the manifest prints it: the four bytes as they lie in a little-endian server's memory."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = google_crc32c.extend(self._value, data)

    def hexdigest(self) -> str:
        return self._value.to_bytes(4, "little").hex()


def _digest(algorithm: str) -> _Digest | None:
    if algorithm in ("", "NONE"):
        return None
    return _Crc32c() if algorithm == "CRC32C" else hashlib.new(algorithm.lower())


def read(layout: Layout, info: BackupInfo, reading: Reading) -> None:
    """Read all files of the backup against its manifest; raises CellarmanError when there is none to trust."""
    with Expected(os.path.join(layout.data(info.id), MANIFEST)) as expected:
        if info.is_tar:
            _read_tars(layout, info, expected, reading)
        else:
            _read_plain(layout, info, expected, reading)
        for path in expected.rest(_MOST_MISSING):
            reading.find(path, "is in the manifest and not in the backup")


def _read_plain(layout: Layout, info: BackupInfo, expected: Expected, reading: Reading) -> None:
    for path, place in _files(layout, info):
        entry = expected.take(path)
        if entry is None:
            if not _may_be_extra(path):
                reading.find(path, "is in the backup and not in the manifest")
            continue
        try:
            with open(place, "rb", buffering=0) as stream:
                _compare(entry, stream, reading)
        except OSError as error:
            reading.find(path, f"cannot be read: {error.strerror}")


def _may_be_extra(path: str) -> bool:
    return path in _EXTRA or path.startswith("pg_wal/")


def _files(layout: Layout, info: BackupInfo) -> Iterator[tuple[str, str]]:
    """Yield every file of a plain backup: its path in the manifest's words, and where it lies."""
    yield from _below(layout.data(info.id), "")
    for tablespace in info.tablespaces:
        if os.path.isabs(tablespace.location):
            yield from _below(layout.tablespace(info.id, tablespace.oid), f"pg_tblspc/{tablespace.oid}/")


def _below(top: str, prefix: str) -> Iterator[tuple[str, str]]:
    pending = [(top, prefix)]
    while pending:
        directory, said = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, f"{said}{entry.name}/"))
                elif not entry.is_symlink():
                    yield said + entry.name, entry.path


def _compare(entry: ManifestFile, stream: IO[bytes], reading: Reading) -> None:
    digest = _digest(entry.checksum_algorithm)
    size = 0
    while block := stream.read(_BLOCK):
        size += len(block)
        reading.bytes += len(block)
        if digest is not None:
            digest.update(block)
        reading.progress(reading.bytes, reading.files)
    reading.files += 1
    if size != entry.size:
        reading.find(entry.path, f"has {size} bytes, the manifest says {entry.size}")
    elif digest is not None and digest.hexdigest() != entry.checksum.lower():
        reading.find(entry.path, f"its {entry.checksum_algorithm} checksum is not the manifest's: the content changed")


def _read_tars(layout: Layout, info: BackupInfo, expected: Expected, reading: Reading) -> None:
    data = layout.data(info.id)
    names = sorted(name for name in os.listdir(data) if _TAR.fullmatch(name))
    wanted = ["base", *(str(t.oid) for t in info.tablespaces if os.path.isabs(t.location))]
    extension = EXTENSIONS[info.compression or "none"]
    for stem in wanted:
        if f"{stem}.tar{extension}" not in names:
            reading.find(f"{stem}.tar{extension}", "is missing")
    for name in names:
        stem = name.partition(".")[0]
        prefix = "" if stem == "base" else f"pg_tblspc/{stem}/"
        try:
            _read_tar(os.path.join(data, name), prefix, expected, reading)
        except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RuntimeError, CellarmanError) as error:
            reading.find(name, f"cannot be read to its end: {error}")
            expected.forget(prefix)  # one finding says it; which files lay behind the break is not known


def _read_tar(path: str, prefix: str, expected: Expected, reading: Reading) -> None:
    with open_tar(path) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
        for member in tar:
            if not member.isreg():
                continue
            name = prefix + member.name.removeprefix("./")
            entry = expected.take(name)
            if entry is not None:
                content = tar.extractfile(member)
                assert content is not None
                _compare(entry, content, reading)
            elif not _may_be_extra(name):
                reading.find(name, "is in the backup and not in the manifest")
        while stream.read(_BLOCK):
            continue  # to the end, so that the codec's own checksum is looked at


@contextlib.contextmanager
def open_tar(path: str) -> Iterator[IO[bytes]]:
    """Open a tar file of a backup for reading, decompressed by what its name says."""
    if path.endswith(".zst"):
        import zstandard

        try:
            with (
                open(path, "rb") as raw,
                zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as plain,
            ):
                yield plain
        except zstandard.ZstdError as error:
            raise CellarmanError("zstd", str(error)) from None
    elif path.endswith(".lz4"):
        import lz4.frame

        with lz4.frame.open(path, "rb") as plain:
            yield plain
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as plain:
            yield plain  # type: ignore[misc]
    else:
        with open(path, "rb") as plain:
            yield plain
