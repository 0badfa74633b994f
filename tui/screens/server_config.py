"""The tab with a server's settings: each value, and the file and line that it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult

from tui.format import Line, plain
from tui.screens.server_pane import Pane
from tui.snapshot import Snapshot
from tui.widgets.frame import Rule
from tui.widgets.lines import Lines
from tui.widgets.table import Column, Row, Table

if TYPE_CHECKING:
    from engine.status import ServerStatus


def _columns(width: int) -> tuple[Column, ...]:
    """Return the columns, the last two sharing what the keys leave."""
    each = max(16, (width - 40) // 2)
    return Column("KEY"), Column("VALUE", limit=each), Column("FROM", limit=each)


class Settings(Pane):
    """What holds for one server."""

    NAME = "config"
    WORDS: ClassVar[dict[str, str]] = {"copy": "copy"}

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, tuple[str, str, str]] = {}
        """(key, value, where it was said) by the row's key."""
        self._laid = 0
        """The width for which they are laid out."""

    def compose(self) -> ComposeResult:
        yield Table(_columns(self.app.size.width), id="settings", glyphs=self.glyphs)
        yield Rule(self.glyphs.rule)
        yield Lines(id="setting", wrapped=True, fixed=True)

    @property
    def table(self) -> Table:
        return self.query_one("#settings", Table)

    def moving(self) -> Table:
        return self.table

    def paint(self, snapshot: Snapshot, server: ServerStatus) -> None:
        if self._laid != self.app.size.width:
            self._laid = self.app.size.width
            self._read(server.name)
        self._paint_detail()

    def _read(self, server: str) -> None:
        """Lay out the configuration that this console was started with; what somebody said comes first."""
        from engine.config import DEFAULT, describe

        columns = _columns(self.app.size.width)
        rows: list[Row] = []
        settings = [row for row in describe(self.app.config) if row[0] in ("", server)]
        for part, key, value, source in sorted(settings, key=lambda row: (row[3] is DEFAULT, row[0] == "")):
            said = source is not DEFAULT
            name, shown, place = f"{'' if part else 'cellarman.'}{key}", _written(value), plain(source)
            self._values[name] = (name, shown, place)
            role, where = ("text", "quiet") if said else ("faint", "faint")
            cells: tuple[Line, ...] = (
                ((name, role),),
                ((shown, "strong" if said else "quiet"),),
                ((_end_of(place, columns[2].limit, self.glyphs.ellipsis), where),),
            )
            rows.append(Row(name, cells))
        self.table.show(rows, columns)

    def _paint_detail(self) -> None:
        found = self._values.get(self.table.key)
        if found is None:
            lines: list[Line] = [(("No file was read: these are the built-in defaults.", "quiet"),)]
        else:
            lines = [
                ((f"{found[0]} = ", "quiet"), (found[1], "strong")),
                (("from  ", "quiet"), (found[2], "text")),
                (("A change counts from the next start of the console; jobs and the agent read it anew.", "quiet"),),
            ]
        self.query_one("#setting", Lines).show(lines)

    @on(Table.Moved)
    def _moved(self) -> None:
        self._paint_detail()

    def refuse_copy(self) -> str:
        return "" if self._values else "There is nothing to copy."

    def do_copy(self) -> None:
        name, value, _ = self._values[self.table.key]
        self.room.copy(f"{name} = {value}", name)


def _end_of(text: str, room: int, ellipsis: str) -> str:
    """Return a text cut at its beginning, as a path is best cut.

    >>> _end_of("/etc/cellarman/cellarman.toml:7", 18, "…")
    '…/cellarman.toml:7'
    """
    return text if len(text) <= room else ellipsis + text[len(text) - room + 1 :]


def _written(value: object) -> str:
    """Return a value as TOML has it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{plain(value)}"' if isinstance(value, str) else str(value)
