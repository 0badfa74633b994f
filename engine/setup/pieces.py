"""Every piece that a server needs, in the order in which to put them into place."""

from __future__ import annotations

from engine.check.facts import Facts
from engine.config import Config
from engine.setup import access, keys, lines, sql
from engine.setup.piece import Piece


def needed(facts: Facts, config: Config) -> list[Piece]:
    """Return what the server needs by its configuration, each with whether it is there."""
    return [
        *access.directories(facts, config),
        *sql.roles(facts),
        *sql.grants(facts),
        *access.host_based(facts),
        *access.passwords(facts),
        *sql.settings(facts),
        *sql.slot(facts),
        *keys.there(facts),
        *keys.back(facts),
        *lines.archive_commands(facts),
        *lines.cron(facts, config),
    ]
