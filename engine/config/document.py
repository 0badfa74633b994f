"""One TOML file: its tables, and the line of every key in it. Knows nothing of what the keys mean.

tomli checks the syntax and gives the values; the scan for line numbers then trusts the text (TOML 1.0).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomli

from engine.commands import cellarman
from engine.config import places
from engine.errors import Advice, ConfigError
from engine.postgres import dsn

KeyPath = tuple[str, ...]

_BLANK = re.compile(r"[ \t\r]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_QUOTED = {
    '"""': re.compile(r'"""(?:[^\\]|\\.)*?"""("{0,2})', re.DOTALL),
    "'''": re.compile(r"'''.*?'''('{0,2})", re.DOTALL),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    "'": re.compile(r"'[^'\n]*'"),
}
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Document:
    """A file as read: its tables, and the line on which each key (as a path of names) stands."""

    path: str
    tables: Mapping[str, Any]
    lines: Mapping[KeyPath, int]
    mode: int
    """Permission bits of the file."""
    owner: int
    """Numeric user that owns the file."""

    def line(self, *path: str) -> int:
        """Return the line of a key; of the nearest table around it when it has none of its own."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(path: str) -> Document:
    """Return a file's tables and lines; ConfigError when it cannot be read or is not TOML, with the line."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file", fix="cellarman --config FILE …, or set CELLARMAN_CONFIG"
        ) from None
    except OSError as error:
        raise places.unreadable(path, error) from None
    text = _text(path, raw)
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        line = int(place[1]) if place and place[1] else text.rstrip().count("\n") + 1
        reason = _AT_LINE.sub("", str(error))
        said = dsn.redact(text.splitlines()[line - 1].strip()) if text else ""
        raise ConfigError(
            f"{path}:{line}: this is not TOML",
            f"{reason}: {said}",
            Advice(f"correct line {line}, then: ", cellarman("config", "check")),
        ) from None
    return Document(path, tables, key_lines(text), status.st_mode & 0o7777, status.st_uid)


def _text(path: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: this is not UTF-8 text", f"byte 0x{raw[error.start]:02x}", "save the file as UTF-8"
        ) from None


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of each key and table header in valid TOML text; of repeated tables, the first.

    >>> key_lines('a = 1\\n[t."x.y"]\\nb = { c = 2,\\n d.e = 3 }\\n')
    {('a',): 1, ('t', 'x.y'): 2, ('t', 'x.y', 'b'): 3, ('t', 'x.y', 'b', 'c'): 3, ('t', 'x.y', 'b', 'd', 'e'): 4}
    """
    return _Scan(text).document()


class _Scan:
    """A walk over the text of one file: the place reached, and the lines found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self.skip(_BETWEEN)
            if self.at >= len(self.text):
                return self.lines
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def skip(self, what: re.Pattern[str]) -> str:
        found = what.match(self.text, self.at)
        if found is None:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = found.end()
        return found[0]

    def header(self) -> KeyPath:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        start = self.at
        self.at += brackets
        table = self.key()
        self.at += brackets
        self.note(table, start)
        return table

    def pair(self, table: KeyPath) -> None:
        start = self.at
        path = table + self.key()
        self.note(path, start)
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        self.value(path)

    def note(self, path: KeyPath, start: int) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, start) + 1)

    def key(self) -> KeyPath:
        """Take a dotted key and the blanks around it."""
        parts: list[str] = []
        while True:
            self.skip(_BLANK)
            quote = self.text[self.at]
            if quote in "\"'":
                word = self.skip(_QUOTED[quote])
                parts.append(tomli.loads(f"k = {word}")["k"])
            else:
                parts.append(self.skip(_BARE))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def value(self, path: KeyPath) -> None:
        """Step over a value, noting the keys of inline tables in it."""
        for quotes, pattern in _QUOTED.items():
            if self.text.startswith(quotes, self.at):
                self.skip(pattern)
                return
        opening = self.text[self.at]
        if opening not in "[{":
            self.skip(_SCALAR)
            return
        self.at += 1
        while True:
            self.skip(_BETWEEN)
            if self.text[self.at] in "]}":
                self.at += 1
                return
            if opening == "{":
                self.pair(path)
            else:
                self.value(path)
