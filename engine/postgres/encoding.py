"""Text of a database without an encoding (SQL_ASCII), which holds whatever bytes people wrote: mostly UTF-8."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NAME = "utf_8_or_bytes"


def accept_any_bytes() -> None:
    """Have psycopg2 read such text as UTF-8, and bytes that are none as the file system's names are read (PEP 383).

    Its own way is strict ASCII: one tablespace at a path with an accent would stop every backup.
    """
    from psycopg2 import extensions

    if extensions.encodings["SQLASCII"] != _NAME:
        codecs.register(_codec)
        extensions.encodings["SQLASCII"] = _NAME


def _codec(name: str) -> codecs.CodecInfo | None:
    return codecs.CodecInfo(_encode, _decode, name=_NAME) if name == _NAME else None


def _encode(text: str, errors: str = "") -> tuple[bytes, int]:
    return codecs.utf_8_encode(text, "surrogateescape")


def _decode(data: Buffer, errors: str = "") -> tuple[str, int]:
    return codecs.utf_8_decode(data, "surrogateescape", True)
