"""`backup_manifest`: every file of a base backup with size and checksum, and the WAL that it needs.

Source: PostgreSQL's "Backup Manifest Format" chapter and src/common/parse_manifest.c. The server writes one file a
line, so the list is read line by line: the memory that it takes is that of the result, not of a JSON tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from engine.errors import CellarmanError
from engine.postgres.lsn import Lsn

_CHECKSUM_KEY = b'"Manifest-Checksum"'


class ManifestError(CellarmanError):
    """A backup_manifest that cannot be used."""


class ManifestFile(namedtuple("ManifestFile", ("path", "size", "checksum_algorithm", "checksum"))):
    """One file: path below the data directory, bytes, `CRC32C`, `SHA256`, … or "", checksum in hexadecimal."""

    __slots__ = ()
    path: str
    size: int
    checksum_algorithm: str
    checksum: str


class WalRange(namedtuple("WalRange", ("timeline", "start", "end"))):
    """A stretch of WAL that the backup needs, `end` exclusive."""

    __slots__ = ()
    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest, its own checksum verified."""

    files: tuple[ManifestFile, ...]
    wal_ranges: tuple[WalRange, ...]
    system_id: int | None
    """Since PostgreSQL 17."""
    version: int


def read_manifest(path: str) -> Manifest:
    """Return a manifest; raises ManifestError when it is cut short, changed since it was written, or not one."""
    files: list[ManifestFile] = []
    return replace(scan_manifest(path, files.append), files=tuple(files))


def scan_manifest(path: str, take: Callable[[ManifestFile], object]) -> Manifest:
    """Hand every file of a manifest to `take`, one by one, and return the rest of it; raises as `read_manifest` does,
    so what was taken is to be trusted only when this returns."""
    rest = bytearray()
    try:
        with open(path, "rb") as stream:
            for line in _verified(stream):
                if line.startswith((b'{ "Path"', b'{ "Encoded-Path"')):
                    take(_file(json.loads(line.rstrip(b",\r\n "))))
                else:
                    rest += line
        document = json.loads(rest)
        for entry in document.get("Files", ()):
            take(_file(entry))
        system_id = document.get("System-Identifier")
        return Manifest(
            (),
            tuple(_wal_range(entry) for entry in document.get("WAL-Ranges", ())),
            None if system_id is None else int(system_id),
            int(document["PostgreSQL-Backup-Manifest-Version"]),
        )
    except OSError as error:
        raise ManifestError(f"{path} cannot be read", error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path} is not a backup manifest that can be trusted", str(error)) from None


def _verified(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the manifest's lines and raise ValueError at the end unless its own SHA-256, in the last line, matches."""
    digest = hashlib.sha256()
    for line in stream:
        if line.startswith(_CHECKSUM_KEY):
            stated = line.partition(b":")[2].strip(b' \r\n"}')
            if stated.decode("ascii", "replace").lower() != digest.hexdigest():
                raise ValueError("its own checksum does not match: it was changed after the server wrote it")
            yield line
            return
        digest.update(line)
        yield line
    raise ValueError("it has no checksum of its own: it was cut short")


def _file(entry: dict[str, Any]) -> ManifestFile:
    encoded = entry.get("Encoded-Path")
    path = os.fsdecode(bytes.fromhex(encoded)) if encoded is not None else str(entry["Path"])
    return ManifestFile(
        path, int(entry["Size"]), sys.intern(str(entry.get("Checksum-Algorithm", ""))), str(entry.get("Checksum", ""))
    )


def _wal_range(entry: dict[str, Any]) -> WalRange:
    return WalRange(int(entry["Timeline"]), Lsn.parse(entry["Start-LSN"]), Lsn.parse(entry["End-LSN"]))
