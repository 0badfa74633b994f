"""Names and texts as SQL takes them, and words as the shell commands that PostgreSQL runs do."""

from __future__ import annotations

import shlex


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


def shell_word(text: str) -> str:
    """Return a word for archive_command and its like, quoted for the shell, its percent signs doubled for PostgreSQL.

    >>> print(shell_word("/srv/100% ours"))
    '/srv/100%% ours'
    """
    return shlex.quote(text).replace("%", "%%")
