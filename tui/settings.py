"""What is only about how the console looks, in a file of its own: theme, ASCII, mouse, keys, how often it looks.

The file is `ui.toml` beside an account's own configuration. What cannot be read is left at its default and said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.config.places import own_file


@dataclass(frozen=True, slots=True)
class Settings:
    """How the console looks."""

    path: str
    theme: str = ""
    ascii: bool | None = None
    """None: by the terminal."""
    mouse: bool = True
    refresh: float = 2.0
    """Seconds between two looks at the repository."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Command id to the keys that it has instead of its own, such as "servers.backup" to "B"."""
    problem: str = ""
    """What of the file could not be used."""


def read(environ: Mapping[str, str]) -> Settings:
    """Return what the file says; all defaults when there is none."""
    found = Settings(os.path.join(os.path.dirname(own_file(environ)), "ui.toml"))
    try:
        with open(found.path, "rb") as file:
            raw = file.read()
    except OSError:
        return found
    import tomli

    try:
        return taken(found, tomli.loads(raw.decode()))
    except (ValueError, UnicodeDecodeError) as error:
        return replace(found, problem=f"{found.path}: {error}")


def taken(found: Settings, document: Mapping[str, object]) -> Settings:
    """Return the settings with what a document says.

    >>> taken(Settings("ui.toml"), {"theme": "light", "refresh": 5, "colour": 1}).problem
    'ui.toml: no such setting: colour'
    """
    problems: list[str] = []
    for key, value in document.items():
        if key == "theme" and isinstance(value, str):
            found = replace(found, theme=value)
        elif key == "ascii" and isinstance(value, bool):
            found = replace(found, ascii=value)
        elif key == "mouse" and isinstance(value, bool):
            found = replace(found, mouse=value)
        elif key == "refresh" and isinstance(value, int | float) and 1 <= value <= 3600:
            found = replace(found, refresh=float(value))
        elif key == "keys" and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            found = replace(found, keys={str(k): v for k, v in value.items()})
        elif key in ("theme", "ascii", "mouse", "refresh", "keys"):
            problems.append(f"{key} cannot be {value!r}")
        else:
            problems.append(f"no such setting: {key}")
    return replace(found, problem=f"{found.path}: {'; '.join(problems)}" if problems else "")


def keep(found: Settings, key: str, value: str | float) -> Settings:
    """Write one value into the file, its other lines as they are; raises OSError."""
    text = f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value:g}"
    try:
        with open(found.path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        lines = []
    first_table = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    places = [i for i in range(first_table) if lines[i].partition("=")[0].strip() == key]
    if places:
        lines[places[0]] = text
    else:
        lines.insert(first_table, text)
    os.makedirs(os.path.dirname(found.path), exist_ok=True)
    from engine.repository import files

    files.replace(found.path, ("\n".join(lines) + "\n").encode())
    return replace(found, theme=value) if key == "theme" and isinstance(value, str) else found
