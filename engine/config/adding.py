"""Adding a server to a configuration file: a table is appended as text, so that all else in the file stays as it is."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping

from engine.config import document
from engine.config.load import load
from engine.config.values import Config
from engine.errors import ConfigError
from engine.oserrors import explain
from engine.repository import files

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = """\
# Written by the console; config.example.toml of Cellarman shows every key.

[cellarman]
barman_home = {home}
"""


def table(name: str, values: Mapping[str, str | bool | int]) -> str:
    r"""Return a server's table as text.

    >>> print(table("erp", {"conninfo": 'host=a user="b"', "archiver": True, "parallel_jobs": 2}), end="")
    [servers.erp]
    conninfo = "host=a user=\"b\""
    archiver = true
    parallel_jobs = 2
    >>> table("erp.eu", {})
    '[servers."erp.eu"]\n'
    """
    named = name if _BARE.fullmatch(name) else _text(name)
    lines = [f"[servers.{named}]", *(f"{key} = {_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _value(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _text(value)


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04X}" for c in escaped) + '"'


def add_server(path: str, name: str, values: Mapping[str, str | bool | int], *, barman_home: str = "") -> Config:
    """Append a server to the file at `path`, which is made when it is not there, and return its configuration.

    `barman_home` is for a file that is made. What would not be a good configuration is refused before anything is
    written: raises ConfigError with the reasons, CellarmanError when the file cannot be written.
    """
    before, mode = _before(path)
    if before is None:
        before = _HEADER.format(home=_text(barman_home or "/var/lib/barman"))
    elif name in (document.read(path).tables.get("servers") or {}):
        raise ConfigError(f'there is a server "{name}" already', f"in {path}", "choose another name")
    after = before.rstrip("\n") + "\n\n" + table(name, values)
    try:
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        _try(path, after)
        files.replace(path, after.encode(), mode=mode)
    except OSError as error:
        raise explain(error) from error
    return load(path)


def _before(path: str) -> tuple[str | None, int]:
    """Return what the file holds, None when there is none, and its permission bits."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(), os.fstat(file.fileno()).st_mode & 0o7777
    except FileNotFoundError:
        return None, 0o640
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read", str(error)) from None


def _try(path: str, text: str) -> None:
    """Read the new text as a configuration, in a file beside the old one; raises ConfigError."""
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), prefix=".trial-", encoding="utf-8") as trial:
        trial.write(text)
        trial.flush()
        try:
            load(trial.name)
        except ConfigError as error:
            what, why = (text.replace(trial.name, path) for text in (error.what, error.why))
            fix = error.fix.replace(trial.name, path) if isinstance(error.fix, str) else error.fix
            raise ConfigError(what, why, fix) from None
