"""Names and texts as SQL takes them."""

from __future__ import annotations


def ident(name: str) -> str:
    """Return an SQL identifier, quoted.

    >>> ident('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return an SQL string, quoted (standard_conforming_strings).

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"
