"""Where the configuration is looked for, and where state goes when nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from engine.errors import ConfigError, NoConfiguration

SYSTEM_FILE = "/etc/cellarman/cellarman.toml"
SYSTEM_DIRECTORY = "/etc/cellarman/conf.d"
SERVICE_STATE = "/var/lib/cellarman"
FIRST_PERSON = 1000
"""The first uid of people; accounts below it are for services (login.defs, UID_MIN)."""
NOBODY = 65534


def files(path: str | None, env: Mapping[str, str]) -> list[str]:
    """Return the files to read, in order, later wins; one that is named is read alone and must exist."""
    alone = given(path, env)
    if alone:
        return [alone]
    own = own_file(env)
    found = [SYSTEM_FILE, *_directory(SYSTEM_DIRECTORY), own]
    there = [name for name in found if _is_there(name)]
    if not there:
        raise NoConfiguration(
            "there is no configuration",
            f"looked for {SYSTEM_FILE}, {SYSTEM_DIRECTORY}/*.toml and {own}",
            "write one (config.example.toml shows every key), or name it: cellarman --config FILE …",
        )
    return there


def given(path: str | None, env: Mapping[str, str]) -> str:
    """Return the file that was named, by a flag or CELLARMAN_CONFIG, absolute; "" when none was."""
    said = path or env.get("CELLARMAN_CONFIG")
    return os.path.abspath(_expand(said, env)) if said else ""


def named(files: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the file that our programs read only when it is named to them; "" when they find it by themselves.

    What CELLARMAN_CONFIG says is not known to another terminal, to cron, or to PostgreSQL.
    """
    found = len(files) != 1 or files[0] in (SYSTEM_FILE, own_file(env))
    return "" if found or os.path.dirname(files[0]) == SYSTEM_DIRECTORY else files[0]


def of_one_account(files: Sequence[str]) -> list[str]:
    """Return those files that not every account finds by itself: all but the system's.

    >>> of_one_account([SYSTEM_FILE, "/etc/cellarman/my site/c.toml", "/home/a/.config/cellarman/cellarman.toml"])
    ['/etc/cellarman/my site/c.toml', '/home/a/.config/cellarman/cellarman.toml']
    """
    return [name for name in files if name != SYSTEM_FILE and os.path.dirname(name) != SYSTEM_DIRECTORY]


def told(path: str | None, env: Mapping[str, str]) -> str:
    """Return what `named` does, of what a command line says before its configuration is read."""
    return named([given(path, env)], env)


def own_file(env: Mapping[str, str]) -> str:
    """Return where an account's own file lies."""
    return os.path.join(env.get("XDG_CONFIG_HOME") or _expand("~/.config", env), "cellarman", "cellarman.toml")


def _is_there(path: str) -> bool:
    """Tell whether a file is there; one that may not be looked at counts, so that reading it says so."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _directory(path: str) -> list[str]:
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(path, error) from None
    return sorted(os.path.join(path, name) for name in names if name.endswith(".toml") and not name.startswith("."))


def unreadable(path: str, error: OSError) -> ConfigError:
    """Return the error for a file or directory of the configuration that this account may not read."""
    fix = f"run as an account that may read it (ls -ld {path}), or name another file: cellarman --config FILE …"
    return ConfigError(f"{path}: cannot be read", f"{error.strerror} (as {_account()})", fix)


def _account() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def state_directory(env: Mapping[str, str], uid: int) -> str:
    """Return where jobs and logs go by default: the XDG state directory, /var/lib/cellarman for a service account."""
    said = env.get("XDG_STATE_HOME", "")
    if os.path.isabs(said):
        return os.path.join(said, "cellarman")
    home = _expand("~", env)
    if uid < FIRST_PERSON or uid == NOBODY or not os.path.isdir(home):
        return SERVICE_STATE
    return os.path.join(home, ".local", "state", "cellarman")


def _expand(path: str, env: Mapping[str, str]) -> str:
    if path == "~" or path.startswith("~/"):
        home = env.get("HOME") or os.path.expanduser("~")
        return home + path[1:]
    return os.path.expanduser(path)
