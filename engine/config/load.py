"""Reads the configuration: files in order, then CELLARMAN_* of the environment, then flags; later wins, key by key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.commands import cellarman
from engine.config import document, keys, places, rules
from engine.config.values import DEFAULT, Config, Problem, Server, Source, nearest
from engine.errors import Advice, ConfigError
from engine.host.endpoint import Endpoint
from engine.postgres import dsn

Said = dict[str, tuple[Any, Source]]
"""What one part of the configuration says: key to parsed value and place."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = {"all", "barman"}  # words of our own command line and of Barman's
_TABLES = ("cellarman", "servers")
_CHECK = cellarman("config", "check")
_OTHER_VARIABLES = {"CONFIG", "CRASH_AT"}


class InvalidConfig(ConfigError):
    """A configuration with problems; each is in `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = problems[0]
        if len(problems) == 1:
            super().__init__(str(first), fix=first.fix or Advice("correct it, then: ", _CHECK))
            return
        what = f"the configuration has {len(problems)} problems"
        why = "\n".join(f"{p}" + (f" ({p.fix})" if p.fix else "") for p in problems)
        super().__init__(what, why, Advice("correct them, then: ", _CHECK))


def load(path: str | None = None, *, env: Mapping[str, str] = os.environ, read_only: bool = False) -> Config:
    """Read the configuration; `path` or CELLARMAN_CONFIG alone when given, else every usual place.

    Raises ConfigError: a file that cannot be read or is not TOML, or InvalidConfig with every problem found.
    """
    reading = _Reading(env)
    for name in places.files(path, env):
        reading.file(document.read(name))
    reading.environment()
    if read_only:
        reading.everywhere["read_only"] = (True, Source("--read-only"))
    return reading.config()


@dataclass
class _Reading:
    """What has been read so far, and what was wrong with it."""

    env: Mapping[str, str]
    everywhere: Said = field(default_factory=dict)
    """[cellarman]: the global part, and defaults for servers."""
    servers: dict[str, Said] = field(default_factory=dict)
    places: dict[str, Source] = field(default_factory=dict)
    """Where each server's table begins."""
    files: list[document.Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def file(self, doc: document.Document) -> None:
        self.files.append(doc)
        for name, table in doc.tables.items():
            place = Source(doc.path, doc.line(name))
            if name not in _TABLES:
                self.problems.append(_unknown_table(name, place))
            elif not isinstance(table, dict):
                self.problems.append(Problem(place, f"{name} must be a table", f"write [{name}]"))
            elif name == "cellarman":
                self.table(doc, (name,), table, {**keys.GLOBAL_KEYS, **keys.SERVER_KEYS}, self.everywhere)
            else:
                for server, said in table.items():
                    self.server(doc, server, said)

    def server(self, doc: document.Document, name: str, table: object) -> None:
        place = Source(doc.path, doc.line("servers", name))
        if not isinstance(table, dict):
            fix = f"write [servers.NAME] above it; is {name} a key of a server?"
            self.problems.append(Problem(place, f'"{name}" in [servers] is not a table', fix))
            return
        if not _NAME.fullmatch(name) or name in _RESERVED:
            why = "is taken by a word of the command line" if name in _RESERVED else "holds more than A-Z a-z 0-9 . _ -"
            self.problems.append(Problem(place, f'the server name "{name}" {why}', "choose another name"))
            return
        self.places.setdefault(name, place)
        self.table(doc, ("servers", name), table, keys.SERVER_KEYS, self.servers.setdefault(name, {}))

    def table(
        self, doc: document.Document, path: tuple[str, ...], table: Mapping[str, Any], known: Mapping[str, keys.Parser],
        said: Said,
    ) -> None:  # fmt: skip
        """Take the keys of one table; a table inside it is read as dotted keys."""
        for key, raw in table.items():
            place = Source(doc.path, doc.line(*path, key))
            dotted = ".".join([*path[1 if path[0] == "cellarman" else 2 :], key])
            if isinstance(raw, dict) and dotted not in known:
                if any(name.startswith(f"{dotted}.") for name in known):
                    self.table(doc, (*path, key), raw, known, said)
                else:
                    self.problems.append(_unknown_inner_table(path, key, place))
            elif dotted not in known:
                self.problems.append(_unknown_key(dotted, path, place, known))
            else:
                self.take(dotted, raw, place, known[dotted], said)

    def take(self, key: str, raw: object, place: Source, parser: keys.Parser, said: Said) -> None:
        try:
            said[key] = (parser(raw), place)
        except ValueError as error:
            shown = dsn.redact(_toml(raw)) if "conninfo" in key else _toml(raw)
            self.problems.append(Problem(place, f"{key} = {shown} cannot be used; it takes {error}"))

    def environment(self) -> None:
        known = {**keys.GLOBAL_KEYS, **keys.SERVER_KEYS}
        names = {key.upper().replace(".", "_"): key for key in known}
        for variable in sorted(self.env):
            word = variable.removeprefix("CELLARMAN_")
            if word == variable or word in _OTHER_VARIABLES:
                continue
            place = Source(f"environment variable {variable}")
            if word not in names:
                near = nearest(word, names)
                hint = f"nearest: CELLARMAN_{near}" if near else "unset it"
                self.warnings.append(Problem(place, "no such key; it has no effect", hint))
                continue
            key = names[word]
            self.take(key, _typed(self.env[variable], known[key]), place, known[key], self.everywhere)

    def config(self) -> Config:
        sources: dict[tuple[str, str], Source] = {}

        def say(part: str, key: str, default: Any) -> Any:
            value, source = self.everywhere.get(key, (default, DEFAULT))
            sources[part, key] = source
            return value

        home = say("", "barman_home", "/var/lib/barman")
        state = say("", "state_directory", places.state_directory(self.env, os.geteuid()))
        read_only = say("", "read_only", False)
        for key in keys.SERVER_KEYS:
            if key in self.everywhere:
                sources["", key] = self.everywhere[key][1]
        servers = {name: self.one(name, said, home, sources) for name, said in self.servers.items()}
        problems, warnings = rules.judge(servers, sources, self.places)
        self.problems += problems + rules.secrets(servers, sources, {d.path: d for d in self.files})
        self.warnings += warnings
        if self.problems:
            raise InvalidConfig(self.problems)
        if not servers:
            self.warnings.append(
                Problem(Source(self.files[-1].path), "no server is configured", "add a table [servers.NAME]")
            )
        return Config(home, state, servers, tuple(d.path for d in self.files), sources, read_only, tuple(self.warnings))

    def one(self, name: str, said: Said, home: str, sources: dict[tuple[str, str], Source]) -> Server:
        merged = {**{k: v for k, v in self.everywhere.items() if k in keys.SERVER_KEYS}, **said}
        if "conninfo" in merged:
            merged.setdefault("streaming_conninfo", merged["conninfo"])
        for key in keys.SERVER_KEYS:
            sources[name, key] = merged[key][1] if key in merged else DEFAULT
        sources[name, "name"] = self.places[name]
        ssh = {key.removeprefix("ssh."): value for key, (value, _) in merged.items() if key.startswith("ssh.")}
        plain = {key: value for key, (value, _) in merged.items() if not key.startswith("ssh.")}
        origin = os.path.abspath(self.places[name].file)
        return Server(name, home, ssh=Endpoint(**{"host": "", **ssh}) if ssh else None, origin=origin, **plain)


def _unknown_table(name: str, place: Source) -> Problem:
    near = nearest(name, _TABLES)
    if near:
        return Problem(place, f'unknown table "{name}"', f"nearest: [{near}]")
    return Problem(place, f'unknown table or key "{name}"', f"a server is [servers.{name}], the rest is in [cellarman]")


def _unknown_inner_table(path: tuple[str, ...], key: str, place: Source) -> Problem:
    fix = f'a server with a dot in its name is quoted: [servers."{".".join([*path[1:], key])}"]'
    near = nearest(key, ["ssh"])
    return Problem(
        place, f"unknown table [{'.'.join([*path, key])}]", f"nearest: [{'.'.join([*path, near])}]" if near else fix
    )


def _unknown_key(key: str, path: tuple[str, ...], place: Source, known: Mapping[str, keys.Parser]) -> Problem:
    table = f"[{'.'.join(path)}]"
    if key in keys.GLOBAL_KEYS:
        return Problem(place, f'"{key}" does not belong in {table}', "it is for all servers: move it to [cellarman]")
    if key in keys.BARMAN_KEYS:
        return Problem(
            place, f'"{key}" in {table} is a key of Barman that cellarman does not have', keys.BARMAN_KEYS[key]
        )
    near = nearest(key, known)
    return Problem(
        place, f'unknown key "{key}" in {table}', f"nearest: {near}" if near else "config.example.toml has all"
    )


def _toml(raw: object) -> str:
    """Return a value as TOML writes it, for a message."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return f'"{raw}"' if isinstance(raw, str) else str(raw)


def _typed(text: str, parser: keys.Parser) -> object:
    """Return an environment variable as the TOML value that its key takes."""
    try:
        parser(text)
        return text
    except ValueError:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        return int(text) if re.fullmatch(r"\d+", text) else text


def describe(config: Config) -> list[tuple[str, str, Any, Source]]:
    """Return (server or "" for the global part, key, value, where it was said) for every value, passwords hidden."""
    rows: list[tuple[str, str, Any, Source]] = []
    for (part, key), source in config.sources.items():
        owner: Any = config if part == "" else config.servers[part]
        if key == "name" or (part == "" and key not in keys.GLOBAL_KEYS):
            continue  # the table's own line; a default for servers is shown with each server
        value = getattr(owner.ssh or Endpoint(""), key[4:]) if key.startswith("ssh.") else getattr(owner, key)
        rows.append((part, key, _without_secrets(value) if "conninfo" in key else value, source))
    return rows


def _without_secrets(value: Any) -> Any:
    return tuple(map(dsn.redact, value)) if isinstance(value, tuple) else dsn.redact(value)
