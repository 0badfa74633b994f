"""Barman's configuration as it stands on disk: sections of text, included files merged, references put in.

Format: barman(5) and Barman's documented behaviour: INI, the last of two values wins, sections of one name merge,
`%(key)s` refers to another value and `%%` is a percent sign, quotes around a value are dropped, `None` unsets.
"""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass, field

from engine.errors import ConfigError

GLOBAL = "barman"
AUTO = ".barman.auto.conf"
ACTIVE_MODEL = ".active-model.auto"
DEFAULT_INCLUDES = "/etc/barman.d"
_REFERENCE = re.compile(r"%(?:%|\((\w+)\)s)")
_DEPTH = 10
_YES = ("true", "yes", "on", "1", "t", "y")


@dataclass
class BarmanConfig:
    """What a Barman configuration says."""

    everywhere: dict[str, str] = field(default_factory=dict)
    """Section [barman]."""
    servers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Each server's own section; inheriting from [barman] is left to the caller, None has been taken for what it is."""
    unset: dict[str, set[str]] = field(default_factory=dict)
    """The keys that a server sets to None, so that [barman]'s value does not hold."""
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(path: str) -> BarmanConfig:
    """Return what a Barman configuration says, with all the files that it includes. Raises ConfigError."""
    found = BarmanConfig()
    raw: dict[str, dict[str, str]] = {}
    _merge(raw, path, found)
    everywhere = raw.get(GLOBAL, {})
    if "barman_home" not in everywhere:
        raise ConfigError(f"{path} has no barman_home", "Barman itself refuses it", "name the main file, barman.conf")
    included = _plain(everywhere.get("configuration_files_directory", DEFAULT_INCLUDES), everywhere)
    for name in sorted(_names(included)):
        if name.endswith(".conf"):
            _include(raw, os.path.join(included, name), found)
    auto = os.path.join(_plain(everywhere["barman_home"], everywhere), AUTO)
    if os.path.exists(auto):
        _merge(raw, auto, found)
    _resolve(raw, found)
    return found


def _include(raw: dict[str, dict[str, str]], path: str, found: BarmanConfig) -> None:
    before = dict(raw.get(GLOBAL, {}))
    _merge(raw, path, found)
    if raw.get(GLOBAL, {}) != before:
        raise ConfigError(
            f"{path} has a section [{GLOBAL}]",
            "Barman refuses that in an included file",
            "move its keys to the main file",
        )


def _merge(raw: dict[str, dict[str, str]], path: str, found: BarmanConfig) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, default_section="\0none")
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read", error.strerror or str(error), "see who may read it: ls -l"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", str(error)) from None
    except configparser.Error as error:
        raise ConfigError(f"{path} is not a Barman configuration", str(error).replace("\n", " ")) from None
    found.files.append(path)
    for section in parser.sections():
        raw.setdefault(section, {}).update(parser.items(section))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _resolve(raw: dict[str, dict[str, str]], found: BarmanConfig) -> None:
    everywhere = raw.get(GLOBAL, {})
    found.everywhere = {key: value for key, text in everywhere.items() if (value := _plain(text, everywhere)) != "None"}
    for section, said in raw.items():
        if section == GLOBAL:
            continue
        around = {"backup_directory": "%(barman_home)s/%(name)s", **everywhere, "name": section, **said}
        values = {key: _plain(text, around) for key, text in said.items()}
        if values.get("model", "").lower() in _YES:
            found.models[section] = values
            continue
        found.unset[section] = {key for key, value in values.items() if value == "None"}
        found.servers[section] = {key: value for key, value in values.items() if value != "None"}
    for name, values in found.servers.items():
        _apply_model(name, values, found)


def _apply_model(name: str, values: dict[str, str], found: BarmanConfig) -> None:
    """Lay the active model, if there is one, over a server's values, as Barman does."""
    home = values.get("backup_directory") or os.path.join(found.everywhere["barman_home"], name)
    try:
        with open(os.path.join(home, ACTIVE_MODEL), encoding="utf-8") as file:
            model = file.read().strip()
    except OSError:
        return
    if model in found.models:
        over = {key: value for key, value in found.models[model].items() if key not in ("model", "cluster")}
        values.update(over)
        found.notes.append(f"[{name}] has the model {model} applied: its {', '.join(over)} are what is carried over")
    else:
        found.notes.append(f"[{name}] has the model {model} applied, which is not there")


def _plain(text: str, around: dict[str, str], depth: int = 0) -> str:
    """Return a value with its references put in and its quotes dropped."""

    def put(match: re.Match[str]) -> str:
        if match[1] is None:
            return "%"
        if match[1] not in around or depth >= _DEPTH:
            raise ConfigError(
                f"{text.strip()!r} refers to {match[0]}, which is nowhere",
                "Barman refuses it",
                "correct it, or write %%",
            )
        return _plain(around[match[1]], around, depth + 1)

    value = _REFERENCE.sub(put, text.strip())
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
