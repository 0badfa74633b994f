"""What can be done to a server or to one of its backups from any room that shows them: each opens its form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.format import plain

if TYPE_CHECKING:
    from engine.job.spec import JobKind
    from engine.repository.backupinfo import BackupInfo
    from engine.status import ServerStatus
    from tui.app import Console


class Acts:
    """The commands about a server; a room has those that the registry gives it."""

    app: Console

    @property
    def subject(self) -> str:
        """The server that they are about, if any."""
        return ""

    @property
    def backup(self) -> BackupInfo | None:
        """The backup that they are about, if any."""
        return None

    def _status(self) -> ServerStatus | None:
        return self.app.snapshot.server(self.subject)

    def refuse_restore(self) -> str:
        if not self.subject:
            return "There is no server to restore."
        server = self._status()
        usable = server is not None and any(info.usable for info in server.backups)
        return "" if usable else f"{plain(self.subject)} has no good backup to restore from yet; b takes one."

    def do_restore(self) -> None:
        self.app.open_restore(self.subject)

    def refuse_check(self) -> str:
        return "" if self.subject else "There is no server to check."

    def do_check(self) -> None:
        from tui.screens.check import CheckRoom

        self.app.push_screen(CheckRoom(self.subject))

    def _refuse_unasked(self) -> str:
        """Return why the server cannot be told anything."""
        if not self.subject:
            return "There is no server."
        if self.app.config.servers[self.subject].conninfo:
            return ""
        return f"The configuration does not say how to reach {plain(self.subject)} (conninfo)."

    def refuse_switch(self) -> str:
        return self._refuse_unasked()

    def do_switch(self) -> None:
        from tui.screens.marks import SwitchForm

        self.app.push_screen(SwitchForm(self.subject))

    def refuse_point(self) -> str:
        return self._refuse_unasked()

    def do_point(self) -> None:
        from tui.screens.marks import PointForm

        self.app.push_screen(PointForm(self.subject))

    def _under_way(self, kind: JobKind) -> str:
        """Return why a job of a kind is not started while another of it runs on the server."""
        jobs = self.app.snapshot.running
        busy = next((job for job in jobs if job.server == self.subject and job.kind == kind), None)
        article = "An" if kind[0] in "aeiou" else "A"
        return f"{article} {kind} of {plain(self.subject)} runs already (job {busy.id})." if busy else ""

    def refuse_backup(self) -> str:
        return self._under_way("backup") if self.subject else "There is no server to back up."

    def do_backup(self) -> None:
        from tui.screens.backup_form import BackupForm

        self.app.push_screen(BackupForm(self.subject))

    def refuse_fetch(self) -> str:
        server = self._status()
        if server is None:
            return "There is no server."
        return self._under_way("fetch") or ("" if server.gaps else "No WAL is missing.")

    def do_fetch(self) -> None:
        from tui.screens.wal_fetch import FetchForm

        self.app.push_screen(FetchForm(self.subject))

    def refuse_aftermath(self) -> str:
        return self._refuse_unasked() or self._under_way("aftermath")

    def do_aftermath(self) -> None:
        from tui.screens.proof import ProofForm

        self.app.push_screen(ProofForm(self.subject))

    def _refuse_backup_at_hand(self) -> str:
        """Return why there is no finished backup under the cursor."""
        info = self.backup
        if info is None:
            return "That is for a backup under the cursor: tab backups (2)."
        return "" if info.usable else f"{info.id} is not a finished backup ({info.status.lower()})."

    def refuse_keep(self) -> str:
        info = self.backup
        if info is not None and info.is_incremental:
            return f"{info.id} is incremental: keep the full backup that it rests on, {info.parent_backup_id}."
        return self._refuse_backup_at_hand()

    def do_keep(self) -> None:
        from tui.screens.keep import KeepForm

        if self.backup is not None:
            self.app.push_screen(KeepForm(self.subject, self.backup))

    def refuse_label(self) -> str:
        return self._refuse_backup_at_hand()

    def do_label(self) -> None:
        from tui.screens.keep import LabelForm

        if self.backup is not None:
            self.app.push_screen(LabelForm(self.subject, self.backup))

    def refuse_delete(self) -> str:
        if self.backup is None:
            return self._refuse_backup_at_hand()
        busy = next((job for job in self.app.snapshot.running if job.backup == self.backup.id), None)
        return f"A {busy.kind} works on {self.backup.id} (job {busy.id})." if busy else ""

    def do_delete(self) -> None:
        from tui.screens import delete

        if self.backup is not None:
            delete.ask(self.app, self.subject, self.backup.id)
