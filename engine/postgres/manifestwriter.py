"""Writing `backup_manifest`, format version 1, one file a line as the server does it.

Source: PostgreSQL's "Backup Manifest Format" chapter and src/backend/backup/backup_manifest.c.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import BinaryIO, NamedTuple

from engine.postgres.lsn import Lsn


class Written(NamedTuple):
    """A file of the backup as the manifest has it."""

    path: bytes
    """Below the data directory; a tablespace's as pg_tblspc/<oid>/…"""
    size: int
    modified: float
    checksum: str
    """Hexadecimal."""
    algorithm: str = "CRC32C"


def write(path: str, files: Iterable[Written], *, timeline: int, start: Lsn, end: Lsn) -> None:
    """Write a manifest to a new file; the WAL from `start` to `end` of `timeline` is what the backup needs."""
    with open(path, "xb") as stream:
        out = _Hashed(stream)
        out.write(b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [')
        comma = b"\n"
        for file in files:
            out.write(comma + _line(file))
            comma = b",\n"
        out.write(b'\n],\n"WAL-Ranges": [\n')
        out.write(f'{{ "Timeline": {timeline}, "Start-LSN": "{start}", "End-LSN": "{end}" }}'.encode())
        out.write(b"\n],\n")
        stream.write(f'"Manifest-Checksum": "{out.digest.hexdigest()}"}}\n'.encode())
    os.chmod(path, 0o600)


class _Hashed:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self.digest.update(data)


def _line(file: Written) -> bytes:
    """Return a file's line.

    >>> _line(Written(b"PG_VERSION", 3, 0.0, "fb1e8a39")).decode()[:39]
    '{ "Path": "PG_VERSION", "Size": 3, "Las'
    """
    try:
        name = '"Path": ' + json.dumps(file.path.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        name = f'"Encoded-Path": "{file.path.hex()}"'
    when = datetime.fromtimestamp(file.modified, timezone.utc)
    checksum = f', "Checksum-Algorithm": "{file.algorithm}", "Checksum": "{file.checksum}"' if file.checksum else ""
    text = f'{{ {name}, "Size": {file.size}, "Last-Modified": "{when:%Y-%m-%d %H:%M:%S} GMT"{checksum} }}'
    return text.encode()
