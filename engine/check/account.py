"""Who runs this."""

from __future__ import annotations

import os
import pwd


def account() -> str:
    """Return the name of the account that runs this, its number when it has no name."""
    return login(os.geteuid())


def login(uid: int) -> str:
    """Return an account's name, `uid N` when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
