"""Who runs this, and with what."""

from __future__ import annotations

import os
import pwd

from engine.host.local import installed


def account() -> str:
    """Return the name of the account that runs this, its number when it has no name."""
    return login(os.geteuid())


def login(uid: int) -> str:
    """Return an account's name, `uid N` when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def program() -> str:
    """Return the absolute path of this installation's cellarman, for a crontab, whose PATH is short."""
    return installed("cellarman") or "cellarman"
