"""The first start, without a server: what to write, where, and what else there is to try."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult

from tui import commands
from tui.format import Line, plain
from tui.screens.room import Room
from tui.snapshot import Snapshot
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.types import CSSPathType


EXAMPLE = (
    "[cellarman]",
    'barman_home = "/var/lib/barman"       # where the backups go',
    "",
    "[servers.main]",
    'conninfo = "host=localhost user=postgres dbname=postgres"',
    'streaming_conninfo = "host=localhost user=postgres"',
    "streaming_archiver = true              # receive its WAL",
    'slot_name = "cellarman"',
)


class Welcome(Room):
    """No server is configured yet."""

    ROOM = "welcome"
    CSS_PATH: ClassVar[CSSPathType | None] = ["room.tcss", "welcome.tcss"]
    BINDINGS = commands.bindings("welcome")

    def body(self) -> ComposeResult:
        yield Lines(id="welcome", wrapped=True)

    def crumbs(self) -> Sequence[str]:
        return ["welcome"]

    def paint(self, snapshot: Snapshot) -> None:
        files = self.app.config.files
        where = plain(files[-1]) if files else "~/.config/cellarman/cellarman.toml"
        lines: list[Line] = [
            (("No server is known yet.", "strong"),),
            (),
            (("Write this to ", "text"), (where, "moving"), (" with your server's own values:", "text")),
            (),
            *(((f"    {line}", "good" if line.startswith("[") else "text"),) for line in EXAMPLE),
            (),
            (("then   ", "quiet"), ("cellarman check main", "moving"), ("    says what is still missing", "quiet")),
            (("       ", "quiet"), ("cellarman backup main", "moving"), ("   takes the first backup", "quiet")),
            (
                ("or     ", "quiet"),
                ("cellarman demo", "moving"),
                ("          shows all of it on a throw-away server", "quiet"),
            ),
        ]
        self.query_one("#welcome", Lines).show(lines)
