"""Deleting a backup: what would go is reckoned first, then its id must be typed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.errors import CellarmanError
from tui.format import Line, counted, plain, size

if TYPE_CHECKING:
    from engine.repository.deletion import Deletion
    from tui.app import Console


def ask(app: Console, server: str, backup: str) -> None:
    """Reckon in a thread what deleting a backup means, then ask, or say what forbids it."""
    app.say("Reckoning what would go.", "moving")
    app.run_worker(partial(_plan, app, server, backup), thread=True, exit_on_error=False, group="delete")


def _plan(app: Console, server: str, backup: str) -> None:
    from engine.repository import deletion

    known = app.config.servers[server]
    try:
        plan = deletion.plan_deletion(known.layout, backup, minimum_redundancy=known.minimum_redundancy)
        if plan.refusals:
            raise deletion.refused(known.layout, backup, list(plan.refusals))
    except CellarmanError as error:
        app.call_from_thread(app.problem, error)
        return
    app.call_from_thread(_confirm, app, server, plan)


def _confirm(app: Console, server: str, plan: Deletion) -> None:
    from engine.actions import command_line
    from tui.screens.typed import Typed

    line = command_line(app.config, "delete", server, plan.id, "--yes", plan.id)
    app.push_screen(
        Typed(
            consequences(server, plan),
            plan.id,
            "the backup's id",
            "delete",
            lambda: app.start_job("delete", server, backup=plan.id),
            line,
        )
    )


def consequences(server: str, plan: Deletion) -> list[Line]:
    """Return what goes with a backup."""
    wal = f"{counted(len(plan.wal), 'WAL file')} that only it needs, {size(plan.wal_bytes)}" if plan.wal else "no WAL"
    name = f" ({plain(plan.info.backup_name)})" if plan.info and plan.info.backup_name else ""
    lines: list[Line] = [
        ((f"Delete backup {plan.id}{name} of {plain(server)}?", "bad!"),),
        (),
        ((f"{counted(plan.files, 'file')} go, {size(plan.bytes)}, and {wal}.", "text"),),
        (("Moments that can only be reached with it are lost. This cannot be undone.", "text"),),
    ]
    return lines + [(("note  ", "quiet"), (plain(note), "text")) for note in plan.notes]
