"""Copying out of the console: through tmux, or through the terminal by OSC 52; what is too much goes to a file."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tui.app import Console

LIMIT = 74_994
"""Encoded bytes that terminals take by OSC 52 at most."""


def copy(
    app: Console, text: str, what: str, say: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> None:
    """Copy `text` by the way that this terminal has, and say which it was, or why there was none."""
    if environ.get("TMUX"):
        app.run_worker(lambda: _through_tmux(app, text, what, say), thread=True, exit_on_error=False)
    else:
        say(_through_terminal(app, text, what, environ))


def _through_tmux(app: Console, text: str, what: str, say: Callable[[str], None]) -> None:
    from engine.host import tmux

    refused = tmux.load_buffer(text)
    if refused:
        app.call_from_thread(lambda: say(f"{_through_terminal(app, text, what, {})} tmux did not take it: {refused}."))
    else:
        app.call_from_thread(lambda: say(f"Copied {what} to tmux's buffer, and through it to the clipboard."))


def _through_terminal(app: Console, text: str, what: str, environ: Mapping[str, str]) -> str:
    encoded = base64.b64encode(text.encode())
    if len(encoded) > LIMIT:
        return f"{what} is too long for the terminal's clipboard; written to {_to_file(app, text)} instead."
    if environ.get("STY") and app._driver is not None:
        # GNU screen passes on only what is wrapped for it.
        app._driver.write(f"\x1bP\x1b]52;c;{encoded.decode()}\x07\x1b\\")
        return f"Copied {what} through screen and the terminal (OSC 52)."
    app.copy_to_clipboard(text)
    return f"Copied {what} through the terminal (OSC 52)."


def _to_file(app: Console, text: str) -> str:
    from tui import export

    path = export.free_path("copied", "txt", app.now())
    try:
        export.write(path, text)
    except OSError as error:
        return f"no file ({error.strerror})"
    return path
