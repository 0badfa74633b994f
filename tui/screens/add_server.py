"""Add a server to the configuration: four fields, and the table that they make, before it is written."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widgets import Input

from engine.commands import cellarman
from engine.config import adding, places
from engine.errors import CellarmanError
from engine.host.clusters import Cluster
from tui.format import Line, capital, plain
from tui.screens.dialog import Dialog
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType

    from engine.config import Config
    from tui.app import Console

FIELDS = (
    ("name", "name", "yours: letters, digits, - _ ."),
    ("conninfo", "conninfo", "host=… user=… dbname=postgres"),
    ("home", "backups in", "the repository's directory"),
    ("retention", "keep", "empty keeps all; or RECOVERY WINDOW OF 7 DAYS"),
)


class AddServer(Dialog):
    """A server about to be added."""

    CSS_PATH: ClassVar[CSSPathType | None] = ["dialog.tcss", "add_server.tcss"]
    AUTO_FOCUS = "#name"
    BINDINGS = [Binding("escape", "close", "Not now.", show=False, priority=True)]

    def __init__(self, cluster: Cluster | None = None) -> None:
        super().__init__()
        self._cluster = cluster

    @property
    def _path(self) -> str:
        import os

        files = self.app.config.files
        return files[-1] if files else places.own_file(os.environ)

    def says(self) -> list[Line]:
        return [
            (("Add a server", "strong"), (f"   to {plain(self._path)}", "quiet")),
            (("Passwords do not belong here: libpq reads them from ~/.pgpass.", "quiet"),),
            (),
        ]

    def fields(self) -> ComposeResult:
        values = self._values()
        for key, label, hint in FIELDS:
            if key == "home" and self.app.config.servers:
                continue
            with Horizontal(classes="field"):
                yield Lines(((label, "quiet"),), classes="label")
                yield Input(values.get(key, ""), placeholder=hint, compact=True, select_on_focus=False, id=key)
        yield Lines(id="below", wrapped=True)

    def _values(self) -> dict[str, str]:
        cluster = self._cluster
        name = "main" if "main" not in self.app.config.servers else ""
        home = self.app.config.barman_home or "/var/lib/barman"
        if cluster is None:
            return {"name": name, "home": home}
        return {"name": cluster.name or name, "conninfo": cluster.conninfo, "home": home}

    def answers(self) -> list[tuple[str, str]]:
        return [("enter", "add it"), ("tab", "next field"), ("esc", "not now")]

    def on_mount(self) -> None:
        self._show_table()

    def _field(self, key: str) -> str:
        found = self.query(f"#{key}")
        return found.first(Input).value.strip() if found else ""

    def _table(self) -> dict[str, str | bool | int]:
        values: dict[str, str | bool | int] = {
            "conninfo": self._field("conninfo"),
            "streaming_archiver": True,
            "slot_name": "cellarman",
        }
        if self._cluster is not None and self._cluster.version.isdigit():
            values["path_prefix"] = f"/usr/lib/postgresql/{self._cluster.version}/bin"
        if self._field("retention"):
            values["retention_policy"] = self._field("retention")
        return values

    @on(Input.Changed)
    def _changed(self) -> None:
        self._show_table()

    def _show_table(self) -> None:
        text = adding.table(self._field("name") or "NAME", self._table())
        lines: list[Line] = [(), *(((f"  {line}", "moving"),) for line in text.splitlines())]
        self.query_one("#below", Lines).show(lines)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        name, home = self._field("name"), self._field("home")
        if not name or not self._field("conninfo"):
            missing = "name" if not name else "conninfo"
            self._refuse(CellarmanError(f"the {missing} is missing", "", "fill it in"))
            self.query_one(f"#{missing}", Input).focus()
            return
        self.app.run_worker(partial(self._add, self.app, name, self._table(), home), thread=True, exit_on_error=False)

    def _add(self, app: Console, name: str, values: dict[str, str | bool | int], home: str) -> None:
        try:
            config = app.add_server(self._path, name, values, home)
        except CellarmanError as error:
            app.call_from_thread(self._refuse, error)
            return
        app.call_from_thread(self._added, name, config)

    def _added(self, name: str, config: Config) -> None:
        self.dismiss()
        self.app.reload(config)
        check = cellarman("check", name).line(config.named)
        said = f"{name} is added. b takes its first backup; this says what is missing: {check}"
        self.app.call_after_refresh(self.app.say, said, "text")

    def _refuse(self, error: CellarmanError) -> None:
        """Say why, in the place of the table, until something is changed."""
        lines: list[Line] = [(), ((f"{capital(plain(error.what))}.", "bad"),)]
        lines += [((plain(line), "text"),) for line in error.why.splitlines()]
        lines += [(("now  ", "quiet"), (plain(error.now(self.app.config.named)), "text"))] if error.fix else []
        self.query_one("#below", Lines).show(lines)

    def action_close(self) -> None:
        self.dismiss()
