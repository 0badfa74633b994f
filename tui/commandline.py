"""The `:` line: a place or a command by a word, what it is about, and a filter; completion of all three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui import commands, themes
from tui.commands import Command, Place

if TYPE_CHECKING:
    from tui.app import Console


@dataclass(frozen=True, slots=True)
class Order:
    """What a line asks for."""

    place: Place | None = None
    command: Command | None = None
    about: str = ""
    """A server, a job, a theme, a number of seconds."""
    kept: str = ""
    """A filter for the list that comes."""


def parse(line: str, room: str) -> Order | str:
    """Return what a line asks for in a room, or why it cannot be understood.

    >>> parse("backups shop-eu /full", "servers").kept
    'full'
    >>> parse("zoom", "servers").command.id
    'every.zoom'
    >>> parse("frobnicate", "servers")
    'There is no word frobnicate; tab shows those there are.'
    """
    words, slash, kept = line.strip().lstrip(":").partition(" /")
    word, _, about = words.strip().partition(" ")
    about = about.strip()
    if not word and not slash:
        return ""
    place = commands.place(word)
    if place is not None:
        if not about and place.takes and not place.optional and place.takes != "server":
            return f":{place.word} needs a {place.takes}."
        return Order(place, None, about, kept.strip())
    command = _command(word, room)
    if command is not None:
        return Order(None, command, about, kept.strip())
    return f"There is no word {word}; tab shows those there are."


def _command(word: str, room: str) -> Command | None:
    """Return the command that a word means in a room: one of its own, or one about servers, which all rooms have."""
    known = [*commands.of(room), *commands.of_servers()]
    return next((c for c in known if word == c.verb or word in c.also), None)


def completer(app: Console, room: str) -> Callable[[str], Sequence[str]]:
    """Return what completes lines typed in a room."""

    def complete(typed: str) -> Sequence[str]:
        return completions(typed, app, room)

    return complete


def completions(typed: str, app: Console, room: str) -> list[str]:
    """Return the whole lines that what was typed could become."""
    word, gap, about = typed.lstrip(" :").partition(" ")
    if not gap:
        words = [place.word for place in commands.PLACES]
        words += [c.verb for c in [*commands.of(room), *commands.of_servers()] if c.verb not in _BY_KEY_ALONE]
        words = list(dict.fromkeys(words))
        return [known for known in words if known.startswith(word)]
    place = commands.place(word)
    command = None if place else _command(word, room)
    known = _abouts(place, app) if place else _subjects(command, about, app) if command else []
    return [] if "/" in about else [f"{word} {each}" for each in known if each.startswith(about.lstrip())]


_BY_KEY_ALONE = {"command", "escape", "interrupt", "filter", "back"}
"""Verbs that mean nothing when they are typed."""


def _subjects(command: Command, about: str, app: Console) -> list[str]:
    """Return the servers that a command can be about, or a server's backups once it is typed."""
    if not command.takes:
        return []
    server = app.snapshot.server(about.strip().partition(" ")[0])
    if command.takes == "server" or server is None or " " not in about.lstrip():
        return sorted(app.config.servers)
    return [f"{server.name} {ref}" for ref in ("latest", "oldest", *(i.id for i in server.backups if i.usable))]


def _abouts(place: Place, app: Console) -> list[str]:
    if place.takes == "server":
        return sorted(app.config.servers)
    if place.takes == "job":
        return ["latest", *(job.id for job in app.snapshot.jobs[:20])]
    if place.takes == "theme":
        return sorted({*themes.THEMES, *themes.ALSO})
    return ["1", "2", "5", "10", "30", "60"] if place.takes == "seconds" else []
