"""Extracting the tar files of a backup made by pg_basebackup, compressed or not.

Source: PostgreSQL's tarCreateHeader (src/port/tar.c): plain ustar headers, sizes above 8 GiB in base 256.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from engine.commands import cellarman
from engine.errors import Advice, CellarmanError
from engine.recovery.copying import BUFFER, Meter
from engine.recovery.packing import END, header
from engine.repository import files

_BLOCK = tarfile.BLOCKSIZE
SUFFIXES = {".tar": "none", ".tar.gz": "gzip", ".tar.lz4": "lz4", ".tar.zst": "zstd"}


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class TarFile:
    """One tar file of a backup: base, or a tablespace's by its oid."""

    path: str
    stem: str
    codec: str
    size: int


def tar_files(directory: str) -> tuple[list[TarFile], list[str]]:
    """Return the tar files in a backup's directory, and the names of encrypted ones, which cannot be read here."""
    found: list[TarFile] = []
    encrypted: list[str] = []
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            stem, dot, suffix = entry.name.partition(".")
            if entry.name.endswith(".gpg"):
                encrypted.append(entry.name)
            elif dot + suffix in SUFFIXES:
                found.append(TarFile(entry.path, stem, SUFFIXES[dot + suffix], entry.stat().st_size))
    return found, encrypted


@contextmanager
def _opened(tar: TarFile, meter: Meter) -> Iterator[Callable[[int], bytes]]:
    """Open a tar file's plain bytes as a read function; compressed bytes read are counted."""
    with open(tar.path, "rb", buffering=0) as raw:
        counted = _Counted(raw.read, meter)
        if tar.codec == "gzip":
            with gzip.GzipFile(fileobj=counted, mode="rb") as plain:  # type: ignore[call-overload]
                yield plain.read
        elif tar.codec == "zstd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(
                counted,  # type: ignore[arg-type]
                read_size=BUFFER,
                read_across_frames=True,
            ) as zst:
                yield zst.read
        elif tar.codec == "lz4":
            import lz4.frame

            with lz4.frame.LZ4FrameFile(counted, mode="rb") as plain:
                yield plain.read
        else:
            yield counted.read


class _Counted:
    """A file that counts what is read from it."""

    def __init__(self, read: Callable[[int], bytes], meter: Meter) -> None:
        self._read, self._meter = read, meter

    def read(self, size: int = -1) -> bytes:
        data = self._read(BUFFER if size is None or size < 0 else size)
        self._meter.add(len(data))
        return data


def extract(
    tar: TarFile, destination: str, meter: Meter, *, skip: Callable[[str], bool], rename: Callable[[str], str]
) -> list[str]:
    """Extract a tar file below a directory and return the files made; modes become 0600 and 0700.

    `skip` and `rename` take members' names. Links are left out: tablespaces are linked afterwards. Raises
    CellarmanError for a damaged file and for a member that leads outside.
    """
    made: list[str] = []
    try:
        with _opened(tar, meter) as read:
            for member in _members(read):
                name = _inside(member.name, tar)
                wanted = name and not skip(name)
                target = os.path.join(destination, rename(name)) if wanted else None
                if member.isdir() and target:
                    os.makedirs(target, 0o700, exist_ok=True)
                elif member.isreg():
                    _copy_member(read, member.size, target)
                    made += [target] if target else []
                elif not (member.isdir() or member.issym()):
                    raise _damaged(tar, f"member {member.name!r} is of a kind that pg_basebackup does not write")
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(tar, str(error)) from error
    except (OSError, RuntimeError) as error:
        raise CellarmanError(
            f"{tar.path} could not be extracted into {destination}",
            str(error),
            "put right what is named, and run the restore again; nothing half-made is left",
        ) from error
    return made


def pieces(tar: TarFile, meter: Meter, *, skip: Callable[[str], bool], rename: Callable[[str], str]) -> Iterator[bytes]:
    """Yield a tar file anew, plain, for another host's tar: members as `extract` would make them, and an end.

    Raises CellarmanError as `extract` does; what was yielded until then has no end, which tar takes for an error.
    """
    try:
        with _opened(tar, meter) as read:
            for member in _members(read):
                name = _inside(member.name, tar)
                wanted = bool(name) and not skip(name)
                if not (member.isdir() or member.isreg() or member.issym()):
                    raise _damaged(tar, f"member {member.name!r} is of a kind that pg_basebackup does not write")
                if wanted and not member.issym():
                    yield header(rename(name), member.size, member.mtime, directory=member.isdir())
                if member.isreg():
                    yield from (data for data in _data_of(read, member.size) if wanted)
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile, RuntimeError) as error:
        raise _damaged(tar, str(error)) from error
    yield END


def _data_of(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Yield a member's data and its padding."""
    left = size
    while left:
        data = read(min(left, BUFFER))
        if not data:
            raise EOFError("it ends too early")
        yield data
        left -= len(data)
    yield _exactly(read, -size % _BLOCK)


def read_member(tar: TarFile, name: str, meter: Meter) -> bytes | None:
    """Return one member's bytes, or None; the file is read up to it."""
    try:
        with _opened(tar, meter) as read:
            for member in _members(read):
                if _inside(member.name, tar) == name:
                    return _exactly(read, member.size)
                _copy_member(read, member.size, None)
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile, RuntimeError) as error:
        raise _damaged(tar, str(error)) from error
    return None


def _members(read: Callable[[int], bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield the members' headers; the caller reads each one's data, padding included, before the next."""
    while True:
        block = _exactly(read, _BLOCK)
        if not block.strip(b"\0"):
            return
        yield tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    """Read this many bytes; raises EOFError when the stream ends before."""
    parts: list[bytes] = []
    left = size
    while left:
        part = read(left)
        if not part:
            raise EOFError("it ends too early")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _copy_member(read: Callable[[int], bytes], size: int, target: str | None) -> None:
    """Write a member's data to a new file, or pass over it."""
    fd = -1
    if target is not None:
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = size
        while left:
            data = read(min(left, BUFFER))
            if not data:
                raise EOFError("it ends too early")
            if fd >= 0:
                files.write_all(fd, data)
            left -= len(data)
    finally:
        if fd >= 0:
            os.close(fd)
    _exactly(read, -size % _BLOCK)


def _inside(name: str, tar: TarFile) -> str:
    """Return a member's name without a leading ./; raises CellarmanError for one that leads outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise _damaged(tar, f"member {name!r} leads outside the data directory")
    return "/".join(parts)


def _damaged(tar: TarFile, why: str) -> CellarmanError:
    return CellarmanError(
        f"{tar.path} cannot be extracted", why, Advice("restore another backup: ", cellarman("backups", "SERVER"))
    )
