"""archive_command: one file from pg_wal into the archive. Light: the WAL client loads this."""

from __future__ import annotations

import os

from engine.wal import archive, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout
    from engine.wal.archive import Duplicate, Stored, WalRefused
    from engine.wal.settings import Settings


def push(server: Settings, path: str) -> Stored | Duplicate:
    """Return once the file at `path` is durable in the archive; it stays where it is. Raises as archive.store does.

    A refusal leaves a note in errors/, so that more than PostgreSQL's log tells of it, until the file is taken. The
    file itself is not copied there: PostgreSQL keeps it as long as it is not archived, and comes again every minute.
    """
    layout, name = server.layout, os.path.basename(path)
    threads = min(2, os.cpu_count() or 1)
    try:
        outcome = archive.store(
            layout,
            path,
            name,
            compression=server.compression,
            level=server.level,
            wait=server.lock_timeout,
            threads=threads if threads > 1 else 0,
        )
    except archive.WalRefused as refused:
        _note(layout, path, refused)
        raise
    _forget(layout, name)
    return outcome


def _note_path(layout: Layout, name: str) -> str:
    return os.path.join(layout.errors, f"{os.fsdecode(os.fsencode(name)[:200])}.refused-at-push.reason.txt")


def _note(layout: Layout, path: str, refused: WalRefused) -> None:
    kept = f"the file is still {os.path.abspath(path)} on the server's host"
    told = type(refused)(refused.what, refused.why, f"{refused.fix}\n{kept}" if refused.fix else kept)
    try:
        refusal.note(_note_path(layout, os.path.basename(path)), told)
    except OSError as error:
        refused.why += f"\n(no note could be left in {layout.errors}: {error})"


def _forget(layout: Layout, name: str) -> None:
    """Remove the note of an earlier refusal."""
    try:
        os.unlink(_note_path(layout, name))
    except OSError:
        pass
