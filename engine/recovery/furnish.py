"""Turning a copied data directory into one that recovers: settings, signal file, tablespace links."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.errors import CellarmanError
from engine.host.machine import Machine, must
from engine.postgres.backuplabel import without_increments
from engine.postgres.controlfile import ControlFile
from engine.recovery import settings
from engine.recovery.plan import Plan

_NEEDED = (
    "pg_wal/archive_status",
    "pg_replslot",
    "pg_stat_tmp",
    "pg_notify",
    "pg_snapshots",
    "pg_dynshmem",
    "pg_tblspc",
)
"""Directories that PostgreSQL wants and a backup may lack."""
_LONGEST = 64 << 20
"""Bytes of a configuration file; what is longer is none."""


def furnish(plan: Plan, control: ControlFile, recorded: Mapping[str, str], host: Machine) -> list[str]:
    """Write what recovery needs, durably, on the host that holds the copy, and return lines about what was changed.

    `recorded` are settings that the original server ran with, for when the backup holds no configuration.
    """
    directory = plan.order.destination
    notes = _configuration(host, directory, control, recorded)
    _label(host, plan)
    _auto_configuration(host, directory, plan.settings)
    missing = [os.path.join(directory, name) for name in _NEEDED]
    what = f"{directory} could not be made ready on {host.name}"
    must(host, ["mkdir", "-p", "-m", "0700", "--", *missing], what)
    for space in plan.placed:
        must(host, ["ln", "-sfn", "--", space.directory, os.path.join(directory, "pg_tblspc", str(space.oid))], what)
    _write(host, os.path.join(directory, "recovery.signal"), "")
    return notes


def _write(host: Machine, path: str, text: str) -> None:
    host.write(path, text.encode(errors="surrogateescape"))


def _read(host: Machine, path: str) -> str | None:
    """Return a file's text; None when it is not there."""
    try:
        return host.read(path, limit=_LONGEST).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None


def _configuration(host: Machine, directory: str, control: ControlFile, recorded: Mapping[str, str]) -> list[str]:
    """Make the configuration lead nowhere outside the directory; write the least there must be where it is missing."""

    def present(path: str) -> bool:
        return host.run(["test", "-e", os.path.join(directory, path)]).status == 0

    notes: list[str] = []
    main = os.path.join(directory, "postgresql.conf")
    before = _read(host, main)
    if before is not None:
        text, removed = settings.neutralised(before, present)
        if removed:
            _write(host, main, text)
        notes += [f"postgresql.conf: commented out, since it leads outside the copy: {line}" for line in removed]
    else:
        _write(host, main, settings.minimal_configuration(control, recorded))
        notes.append("the backup holds no postgresql.conf: a minimal one was written")
    hba = os.path.join(directory, "pg_hba.conf")
    if _read(host, hba) is None:
        _write(host, hba, settings.MINIMAL_HBA)
        notes.append("the backup holds no pg_hba.conf: one that lets this account in by its own name was written")
    return notes


def _label(host: Machine, plan: Plan) -> None:
    """See that there is a backup_label: without it PostgreSQL would start from the wrong checkpoint, in silence. It
    starts from no label that says INCREMENTAL FROM."""
    assert plan.info is not None
    path = os.path.join(plan.order.destination, "backup_label")
    copied = _read(host, path)
    if copied is not None:
        if plan.info.is_incremental:
            _write(host, path, without_increments(copied))
        return
    if not plan.info.backup_label:
        raise CellarmanError(
            f"backup {plan.info.id} has no backup_label",
            "without it PostgreSQL would not know where the copy began, and the result would be corrupt",
            "restore another backup",
        )
    _write(host, path, plan.info.backup_label)


def _auto_configuration(host: Machine, directory: str, written: Mapping[str, str]) -> None:
    """Put the settings at the end of postgresql.auto.conf, which wins over every other file."""
    path = os.path.join(directory, "postgresql.auto.conf")
    before = settings.own_settings_removed(_read(host, path) or "", written)
    _write(host, path, f"{before}{settings.BANNER}\n{settings.render(written)}")
