"""Leaving root: PostgreSQL refuses it, so the demo runs as an unprivileged account."""

from __future__ import annotations

import os
import pwd
import sys

from engine.errors import Refused

ACCOUNT = "nobody"


def leave_root(directory: str | None, words: list[str]) -> None:
    """When we are root, run `cellarman` with `words` as ACCOUNT, which is given `directory`. Else do nothing.

    Raises Refused when there is no such account, or it cannot run this installation.
    """
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise Refused(
            "PostgreSQL refuses to run as root",
            f"and there is no account {ACCOUNT} to run it as",
            "run cellarman demo as an ordinary user",
        ) from None
    if directory is not None:
        _hand_over(directory, account)
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    os.environ.update(USER=ACCOUNT, LOGNAME=ACCOUNT, HOME=account.pw_dir)
    for name in ("TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR"):
        if name in os.environ and not os.access(os.environ[name], os.W_OK):
            del os.environ[name]
    _require_readable()
    # Executed anew, since /proc hides a process that changed its account from that account.
    os.chdir("/")
    os.execv(sys.executable, [sys.executable, "-m", "engine.cli.main", *words])


def _hand_over(directory: str, account: pwd.struct_passwd) -> None:
    """Make the directory for the account where it cannot do so itself; `place.make` refuses one that is in use."""
    if not os.path.exists(directory):
        os.seteuid(account.pw_uid)
        can_make_it = os.access(os.path.dirname(directory), os.W_OK | os.X_OK, effective_ids=True)
        os.seteuid(0)
        if can_make_it:
            return
        os.makedirs(directory, mode=0o700)
    if os.path.isdir(directory) and not os.listdir(directory):
        os.chown(directory, account.pw_uid, account.pw_gid)


def _require_readable() -> None:
    for path, mode in ((sys.executable, os.X_OK), (__file__, os.R_OK)):
        if not os.access(path, mode):
            raise Refused(
                f"the demo cannot run as {ACCOUNT}",
                f"PostgreSQL refuses root, and {ACCOUNT} cannot read {path}",
                "install Cellarman where every account can read it, or run the demo as an ordinary user",
            )
