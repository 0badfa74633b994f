"""The line at the bottom that is typed into, `/` what a list keeps, `:` commands; with history and completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input

from tui.format import Span, plain
from tui.widgets.lines import Lines

Completer = Callable[[str], Sequence[str]]
"""Returns the whole lines that what was typed could become."""


class _Typed(Input):
    """The field itself; its keys win over the room's."""

    BINDINGS = [
        Binding("escape", "close", "Close it.", show=False),
        Binding("up", "older", "What was typed before.", show=False),
        Binding("down", "newer", "What was typed after.", show=False),
        Binding("tab", "complete", "Complete it.", show=False),
    ]

    class Asked(Message):
        """A key that the prompt handles."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def action_close(self) -> None:
        self.post_message(self.Asked("close"))

    def action_older(self) -> None:
        self.post_message(self.Asked("older"))

    def action_newer(self) -> None:
        self.post_message(self.Asked("newer"))

    def action_complete(self) -> None:
        self.post_message(self.Asked("complete"))


class Prompt(Vertical):
    """A sign, a field, and below it what the line could become."""

    DEFAULT_CSS = """
    Prompt { height: 2; }
    Prompt > Horizontal { height: 1; }
    Prompt #prompt-sign { width: 3; }
    Prompt Input { width: 1fr; background: $background; padding: 0; border: none; }
    Prompt Input:focus { border: none; background: $background; }
    Prompt #hints { height: 1; }
    """

    class Changed(Message):
        """The line is another."""

        def __init__(self, sign: str, text: str) -> None:
            super().__init__()
            self.sign, self.text = sign, text

    class Accepted(Message):
        """Enter was pressed."""

        def __init__(self, sign: str, text: str) -> None:
            super().__init__()
            self.sign, self.text = sign, text

    class Closed(Message):
        """Escape was pressed."""

        def __init__(self, sign: str) -> None:
            super().__init__()
            self.sign = sign

    def __init__(self, sign: str, text: str, history: Sequence[str], complete: Completer, hint: str) -> None:
        super().__init__(id="prompt")
        self.sign = sign
        self._history = list(history)
        self._place = len(self._history)
        self._complete = complete
        self._hint = hint
        self._cycle: list[str] = []
        self._offered = ""
        # Held, not looked up: what is on its way to a prompt may come when its children are gone already.
        self._field = _Typed(text, compact=True, select_on_focus=False)
        self._hints = Lines(id="hints")
        self.over = False
        """Whether it was accepted or closed, and goes."""

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Lines((("  ", "text"), (self.sign, "hand!")), id="prompt-sign")
            yield self._field
        yield self._hints

    def on_mount(self) -> None:
        self.screen.set_focus(self._field)
        self._show_hints()

    def take(self, event: events.Key) -> None:
        """Hand on to the field a key that was pressed before it was there."""
        key = events.Key(event.key, event.character)
        key.set_sender(self.app)  # it bubbles as far as its sender, and enter is the app's to bind
        self._field._forward_event(key)

    def _set(self, text: str) -> None:
        self._field.value = text
        self._field.cursor_position = len(text)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self._offered:
            self._cycle = []
        self._show_hints()
        self.post_message(self.Changed(self.sign, event.value))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self.over:
            self.over = True
            self.post_message(self.Accepted(self.sign, event.value))

    @on(_Typed.Asked)
    def _asked(self, event: _Typed.Asked) -> None:
        event.stop()
        if event.what == "close":
            if not self.over:
                self.over = True
                self.post_message(self.Closed(self.sign))
        elif event.what == "complete":
            self._offer()
        else:
            self._remember(-1 if event.what == "older" else 1)

    def _remember(self, by: int) -> None:
        self._place = max(0, min(self._place + by, len(self._history)))
        self._set(self._history[self._place] if self._place < len(self._history) else "")

    def _offer(self) -> None:
        """Complete as far as it is certain; after that go through what there is."""
        typed = self._field.value
        if self._cycle:
            place = self._cycle.index(typed) + 1 if typed in self._cycle else 0
            self._offered = self._cycle[place % len(self._cycle)]
        else:
            found = list(self._complete(typed))
            if not found:
                return
            common = _common(found)
            if len(found) > 1 and len(common) <= len(typed):
                self._cycle = found
                common = found[0]
            self._offered = common
        self._set(self._offered)

    def _show_hints(self) -> None:
        typed = self._field.value
        found = self._cycle or list(self._complete(typed))
        if not found:
            self._hints.show([((f"  {self._hint}", "quiet"),)])
            return
        spans: list[Span] = [("  ", "text")]
        for whole in found[:40]:
            spans += [(plain(whole.rpartition(" ")[2] or whole), "hand" if whole == typed else "quiet"), ("  ", "text")]
        self._hints.show([tuple(spans)])


def _common(lines: Sequence[str]) -> str:
    """Return how all of these begin.

    >>> _common(["backups crm", "backups crystal"])
    'backups cr'
    """
    first, last = min(lines), max(lines)
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first if same is None else first[:same]
