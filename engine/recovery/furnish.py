"""Turning a copied data directory into one that recovers: settings, signal file, tablespace links."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.errors import CellarmanError
from engine.postgres.controlfile import ControlFile
from engine.recovery import settings
from engine.recovery.destination import Placed
from engine.recovery.plan import Plan
from engine.repository import files


def furnish(plan: Plan, control: ControlFile, recorded: Mapping[str, str]) -> list[str]:
    """Write what recovery needs, durably, and return lines about what was changed.

    `recorded` are settings that the original server ran with, for when the backup holds no configuration.
    """
    directory = plan.order.destination
    notes = _configuration(directory, control, recorded)
    _label(plan)
    _auto_configuration(directory, plan.settings)
    for space in plan.placed:
        _link(directory, space)
    for missing in ("pg_wal/archive_status", "pg_replslot", "pg_stat_tmp", "pg_notify", "pg_snapshots", "pg_dynshmem"):
        os.makedirs(os.path.join(directory, missing), 0o700, exist_ok=True)
    _write(os.path.join(directory, "recovery.signal"), "")
    return notes


def _write(path: str, text: str) -> None:
    files.replace(path, text.encode(errors="surrogateescape"), mode=0o600)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _configuration(directory: str, control: ControlFile, recorded: Mapping[str, str]) -> list[str]:
    """Make the configuration lead nowhere outside the directory; write the least there must be where it is missing."""
    notes: list[str] = []
    main = os.path.join(directory, "postgresql.conf")
    if os.path.exists(main):
        text, removed = settings.neutralised(_read(main), directory)
        if removed:
            _write(main, text)
        notes += [f"postgresql.conf: commented out, since it leads outside the copy: {line}" for line in removed]
    else:
        _write(main, settings.minimal_configuration(control, recorded))
        notes.append("the backup holds no postgresql.conf: a minimal one was written")
    hba = os.path.join(directory, "pg_hba.conf")
    if not os.path.exists(hba):
        _write(hba, settings.MINIMAL_HBA)
        notes.append("the backup holds no pg_hba.conf: one that lets this account in by its own name was written")
    return notes


def _label(plan: Plan) -> None:
    """See that there is a backup_label: without it PostgreSQL would start from the wrong checkpoint, in silence."""
    assert plan.info is not None
    path = os.path.join(plan.order.destination, "backup_label")
    if os.path.exists(path):
        return
    if not plan.info.backup_label:
        raise CellarmanError(
            f"backup {plan.info.id} has no backup_label",
            "without it PostgreSQL would not know where the copy began, and the result would be corrupt",
            "restore another backup",
        )
    _write(path, plan.info.backup_label)


def _auto_configuration(directory: str, written: Mapping[str, str]) -> None:
    """Put the settings at the end of postgresql.auto.conf, which wins over every other file."""
    path = os.path.join(directory, "postgresql.auto.conf")
    before = settings.own_settings_removed(_read(path), written) if os.path.exists(path) else ""
    _write(path, f"{before}{settings.BANNER}\n{settings.render(written)}")


def _link(directory: str, space: Placed) -> None:
    os.makedirs(os.path.join(directory, "pg_tblspc"), 0o700, exist_ok=True)
    os.symlink(space.directory, os.path.join(directory, "pg_tblspc", str(space.oid)))
