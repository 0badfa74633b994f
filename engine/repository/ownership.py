"""Whose a repository is, for the error that says why another account may not work in it. Loaded on that error only."""

from __future__ import annotations

import os
import pwd

from engine.errors import CellarmanError


def forbidden(server: str, path: str, error: PermissionError) -> CellarmanError:
    """Return the error for an account that may not use `path` in a server's repository."""
    return CellarmanError(
        f"account {_name(os.geteuid())} may not use the archive of {server}",
        str(error),
        f"run it as {_owner(path)}, whose the repository is; PostgreSQL runs archive_command and restore_command as its"
        " own account, so for these let Cellarman run as that one",
    )


def _owner(path: str) -> str:
    """Return the account of the nearest directory above that this account may look at."""
    directory = os.path.dirname(path)
    while True:
        try:
            return _name(os.stat(directory).st_uid)
        except PermissionError:
            directory = os.path.dirname(directory)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
