"""Text into a real tmux's buffer."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.host import tmux
from tests.support.tmux import SHELL

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux here")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A tmux of our own, and this process as if in it."""
    socket = tmp_path / "tmux"
    command = ["tmux", "-S", str(socket)]
    subprocess.run([*command, "-f", "/dev/null", *SHELL, ";", "new", "-d", "sleep 60"], check=True)
    monkeypatch.setenv("TMUX", f"{socket},1,0")
    yield command
    subprocess.run([*command, "kill-server"], check=False)


def test_text_is_in_the_buffer_as_it_was(inside: list[str]) -> None:
    text = "cellarman restore 'a b' ✓\nsecond line"
    assert tmux.load_buffer(text) == ""
    shown = subprocess.run([*inside, "show-buffer"], capture_output=True, check=True)
    assert shown.stdout.decode() == text


def test_why_it_was_not_taken_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", f"{tmp_path}/nobody,1,0")
    assert tmux.load_buffer("x") != ""
