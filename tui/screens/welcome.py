"""The first start, without a server: what was found on this host, and the two keys that go on from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult

from engine.commands import cellarman
from engine.host import clusters
from engine.host.clusters import Cluster
from tui import commands
from tui.format import Line, counted, plain
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from textual.types import CSSPathType


COLUMNS = (
    Column("PORT", align="right"),
    Column("CLUSTER"),
    Column("STATE"),
    Column("FOUND BY", yields=2),
    Column("DATA DIRECTORY", yields=1),
)


class Welcome(Room):
    """No server is configured yet."""

    ROOM = "welcome"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "welcome.tcss"]
    BINDINGS = commands.bindings("welcome")

    def __init__(self) -> None:
        super().__init__()
        self._found: list[Cluster] | None = None

    def body(self) -> ComposeResult:
        yield Lines(id="welcome", wrapped=True)
        yield Table(COLUMNS, id="clusters", glyphs=self.glyphs)
        yield Lines(id="ways", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return ["welcome"]

    def moving(self) -> Table:
        return self.query_one("#clusters", Table)

    def on_mount(self) -> None:
        self._look()

    @work(thread=True, exit_on_error=False, group="clusters")
    def _look(self) -> None:
        found = clusters.find()
        self.app.call_from_thread(self._looked, found)

    def _looked(self, found: list[Cluster]) -> None:
        self._found = found
        self.repaint()

    def paint(self, snapshot: Snapshot) -> None:
        self.query_one("#welcome", Lines).show([(("No server is known yet.", "strong"),), (), *self._seen()])
        table = self.query_one("#clusters", Table)
        table.display = bool(self._found)
        table.show([_row(cluster) for cluster in self._found or ()])
        files = self.app.config.files
        where = plain(files[-1]) if files else "~/.config/cellarman/cellarman.toml"
        check = cellarman("check", "main").line(self.app.config.named)
        self.query_one("#ways", Lines).show(
            [
                (("a", "hand!"), ("  add a server: a short form, written to ", "text"), (where, "moving")),
                (("d", "hand!"), ("  the demo: all of it on a throw-away server, removed when you leave", "text")),
                (),
                (("or write the file yourself, a table ", "quiet"), ("[servers.main]", "text"), (" with", "quiet")),
                (("conninfo", "text"), (", then ask ", "quiet"), (plain(check), "moving")),
            ]
        )

    def _seen(self) -> list[Line]:
        if self._found is None:
            return [(("Looking for PostgreSQL on this host.", "quiet"),)]
        if not self._found:
            return [(("No PostgreSQL was found on this host; it may well run on another one.", "text"),)]
        count = counted(len(self._found), "cluster")
        return [((f"{count} of PostgreSQL on this host. ", "text"), ("a", "hand!"), (" adds the marked one.", "text"))]

    def chosen(self) -> Cluster | None:
        """The cluster under the cursor."""
        key = self.moving().key
        return next((cluster for cluster in self._found or () if _key(cluster) == key), None)

    @on(Table.Opened)
    def _opened(self) -> None:
        self.action_command("welcome.add")

    def refuse_add(self) -> str:
        return "This console is read-only." if self.app.read_only else ""

    def do_add(self) -> None:
        from tui.screens.add_server import AddServer

        self.app.push_screen(AddServer(self.chosen()))

    def do_demo(self) -> None:
        self.app.wants_demo = True
        self.app.exit()


def _key(cluster: Cluster) -> str:
    return f"{cluster.host}:{cluster.port}"


def _row(cluster: Cluster) -> Row:
    name = f"{cluster.version}/{cluster.name}" if cluster.name else plain(cluster.host)
    return Row(
        _key(cluster),
        (
            ((str(cluster.port), "text"),),
            ((plain(name), "strong"),),
            (("running", "good") if cluster.running else ("down", "quiet"),),
            ((plain(cluster.found_by), "quiet"),),
            ((plain(cluster.data_directory), "quiet"),),
        ),
    )
