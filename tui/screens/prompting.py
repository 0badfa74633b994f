"""The line above the keys of a room: what it says for a while, and the prompts of `/` and `:`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual import events
from textual.screen import Screen

from tui import commands
from tui.format import Line, plain
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from textual.timer import Timer

    from tui.app import Console
    from tui.filter import Filter
    from tui.widgets.prompt import Prompt

FLASH_SECONDS = 6.0


class Narrowable(Protocol):
    """What a filter can narrow: a table, a log."""

    def narrow(self, text: str) -> None:
        """Show only what `text` keeps; all with an empty one."""

    @property
    def narrowed(self) -> Filter | None:
        """What is kept, when not all is."""

    @property
    def rows(self) -> Sequence[object]:
        """What is shown."""

    @property
    def total(self) -> int:
        """How much there is."""


class Movable(Protocol):
    """What the moving keys can move: a table, a log."""

    def move(self, by: int) -> None:
        """Go on by so many rows."""

    @property
    def page(self) -> int:
        """How many rows are seen at once."""

    @property
    def rows(self) -> Sequence[object]:
        """All there are."""


class Prompting(Screen[None]):
    """The part of a room that speaks and asks in one line."""

    app: Console
    ROOM: ClassVar[str] = ""
    _flash_timer: Timer | None = None
    _prompt_since: float = 0.0
    """When the prompt was there, in seconds of the monotonic clock, as events have them."""

    def moving(self) -> Movable | None:
        """What the moving keys move."""
        return None

    def offer_keys(self) -> None:
        """Show the keys that work here and now."""
        raise NotImplementedError

    def action_command(self, command_id: str) -> Awaitable[object] | None:
        """Run a command of the registry, or say why not; what it returns is awaited before the next key is read."""
        raise NotImplementedError

    def narrowing(self) -> Narrowable | None:
        """What `/` narrows: what the keys move, when it is a list."""
        moved = self.moving()
        return moved if moved is not None and hasattr(moved, "narrow") else None

    def refuse_filter(self) -> str:
        return "" if self.narrowing() else "There is no list here."

    def do_filter(self) -> Awaitable[object] | None:
        found = self.narrowing()
        kept = found.narrowed if found else None
        return self._prompt("/", kept.text if kept else "", lambda _: (), "text, !text or column=text; enter keeps it")

    def do_command(self) -> Awaitable[object] | None:
        from tui import commandline

        complete = commandline.completer(self.app, self.ROOM)
        return self._prompt(":", "", complete, "a word, tab completes it; esc leaves")

    def _prompt(
        self, sign: str, text: str, complete: Callable[[str], Sequence[str]], hint: str
    ) -> Awaitable[object] | None:
        from tui.widgets.prompt import Prompt

        if self.query("#prompt"):
            return None
        self.add_class("-prompting")
        return self.query_one("#bottom").mount(Prompt(sign, text, self.app.history.lines(sign), complete, hint))

    def _end_prompt(self) -> None:
        self.set_focus(None)
        self.query("#prompt").remove()
        self.remove_class("-prompting")
        self._say_filter()

    def on_prompt_changed(self, event: Prompt.Changed) -> None:
        if event.sign == "/":
            self.keep_only(event.text)

    def on_prompt_closed(self, event: Prompt.Closed) -> None:
        if event.sign == "/":
            self.keep_only("")
        self._end_prompt()

    def on_prompt_accepted(self, event: Prompt.Accepted) -> None:
        self.app.history.add(event.sign, event.text)
        self._end_prompt()
        if event.sign == ":":
            self.app.obey(event.text)

    def keep_only(self, text: str) -> None:
        """Narrow the list that is here to what `text` keeps."""
        found = self.narrowing()
        if found is not None:
            found.narrow(text)
            self._hush()
            self._say_filter()
            self.offer_keys()

    def _say_filter(self) -> None:
        """Say above the keys what a filter keeps, while it does and nothing else is said."""
        if self._flash_timer is not None:
            return
        found = self.narrowing()
        kept = found.narrowed if found else None
        if found is None or kept is None:
            self.query_one("#flash", Lines).show([()])
            return
        how = "  as it stands: it is no regular expression" if kept.literal else ""
        count = f"  {len(found.rows):,} of {found.total:,}"
        line: Line = (("  / ", "hand!"), (plain(kept.text), "strong"), (count, "text"), (how, "soon"))
        self.query_one("#flash", Lines).show([(*line, ("   esc shows all", "quiet"))])

    def say(self, text: str, role: str = "text") -> None:
        """Say something in the line above the keys, for a few seconds."""
        line: Line = (("  ", "text"), (plain(text), role))
        self.query_one("#flash", Lines).show([line])
        self._hush()
        self._flash_timer = self.set_timer(FLASH_SECONDS, self._unsay)

    def _hush(self) -> None:
        if self._flash_timer is not None:
            self._flash_timer.stop()
            self._flash_timer = None

    def _unsay(self) -> None:
        self._flash_timer = None
        self.query_one("#flash", Lines).show([()])
        self._say_filter()

    async def on_key(self, event: events.Key) -> None:
        """Open a prompt before the next key is looked at, and give it what was typed before it was there."""
        prompts = self.query("#prompt")
        if prompts and event.time < self._prompt_since:
            from tui.widgets.prompt import Prompt

            prompt = prompts.first(Prompt)
            if not prompt.over:
                event.stop()
                event.prevent_default()
                prompt.take(event)
                return
        opening = [commands.named("every.command"), commands.named("every.filter")]
        command = next((c for c in opening if event.key in c.keys.split(",")), None)
        if command is None or prompts:
            return
        event.stop()
        event.prevent_default()
        opened = self.action_command(command.id)
        if opened is not None:
            await opened
            self._prompt_since = time.monotonic()
