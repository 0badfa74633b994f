"""Log sequence numbers: 64-bit byte positions in the WAL, printed as two hexadecimal halves.

Source: PostgreSQL's pg_lsn type (src/backend/utils/adt/pg_lsn.c). Light: imports nothing.
"""

from __future__ import annotations


class Lsn(int):
    """A byte position in the WAL.

    >>> Lsn.parse("1/A000028")
    Lsn('1/A000028')
    >>> str(Lsn(0x1_0A00_0028)), Lsn.parse("0/1000000") + 16
    ('1/A000028', 16777232)
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Return the LSN that `text` prints; raises ValueError with the offending text."""
        high, slash, low = text.strip().partition("/")
        if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
            raise ValueError(f"not an LSN: {text!r} (expected two hexadecimal halves, such as 0/5000028)")
        if not all(c in "0123456789abcdefABCDEF" for c in high + low):
            raise ValueError(f"not an LSN: {text!r} (expected two hexadecimal halves, such as 0/5000028)")
        return cls((int(high, 16) << 32) | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"
