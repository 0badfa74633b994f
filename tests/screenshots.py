"""Export the pictures in screenshots/ from the real console on the fleet: `python -m tests.screenshots [FOLDER]`.

Every screen in both sizes that are looked at; a name on the command line after the folder makes only that one.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from engine.config import Config, load
from tests.support import fleet as fleet_
from tests.support.fleet import Fleet
from tui.app import Console
from tui.screens import prompting

_SETTINGS = (
    'streaming_conninfo = "host=erp-main-1 user=streaming_barman"',
    "streaming_archiver = true",
    'slot_name = "cellarman"',
    'retention_policy = "RECOVERY WINDOW OF 7 DAYS"',
    "minimum_redundancy = 1",
)
SIZES = ((80, 24), (160, 45))


@dataclass(frozen=True)
class Picture:
    """What is pressed, and what must be on the screen then."""

    keys: tuple[str, ...] = ()
    shows: str = ""
    theme: str = "cellar"
    ascii_only: bool = False
    from_file: bool = False
    """Whether the configuration is read from a file, which this picture is of."""


PICTURES: dict[str, Picture] = {
    "servers": Picture(),
    "server": Picture(("enter",), "overview"),
    "backups": Picture(("enter", "2"), "BACKUP"),
    "wal": Picture(("enter", "3"), "gap"),
    "timeline": Picture(("enter", "4"), "timeline"),
    "config": Picture(("enter", "6"), "retention_policy", from_file=True),
    "jobs": Picture(("j",), "running"),
    "job": Picture(("j", "enter"), "average"),
    "events": Picture(("l",), "events."),
    "backup-form": Picture(("b",), "Back up erp-main now?"),
    "restore": Picture(("down", "r"), "restore"),
    "help": Picture(("question_mark",), "The keys here."),
    "command-line": Picture(("colon", *"backups ", "tab"), "backups"),
    "filter": Picture(("slash", *"!state=ok", "enter"), "3 of 5"),
    "export": Picture(("e",), "Export what is on the screen"),
    "palette": Picture(("ctrl+p", *"theme"), "theme light"),
    "servers-light": Picture(theme="paper"),
    "servers-blue-orange": Picture(theme="blue-orange"),
    "servers-contrast": Picture(theme="contrast"),
    "servers-ascii": Picture(ascii_only=True),
}
# Fonts from the network have no place in a picture that is looked at offline.
_FONT = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


def screen_text(app: Console) -> str:
    """Return what is on the screen as text."""
    compositor: Any = app.screen._compositor
    return "\n".join(strip.text for strip in compositor.render_strips())


def _from_file(fleet: Fleet) -> Config:
    """Return the fleet's configuration as a file has it."""
    file = fleet.root / "etc" / "cellarman" / "cellarman.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["[cellarman]", f'barman_home = "{fleet.root}/barman"', f'state_directory = "{fleet.root}/state"']
    for name in fleet.servers:
        lines += [f"[servers.{name}]", f'conninfo = "host={name}-1 user=barman dbname=postgres"', *_SETTINGS]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load(str(file), env={})


async def drawn(fleet: Fleet, picture: Picture, size: tuple[int, int]) -> str:
    """Return the console after these keys, as SVG."""
    app = Console(
        _from_file(fleet) if picture.from_file else fleet.config,
        now=lambda: fleet.now,
        theme=picture.theme,
        ascii_only=picture.ascii_only,
    )
    async with app.run_test(size=size) as pilot:
        await _settled(lambda: app.snapshot.looked)
        for key in picture.keys:
            await pilot.press(key)
            await pilot.pause()
        await _settled(lambda: picture.shows in screen_text(app))
        before = ""
        for _ in range(50):
            await pilot.pause(0.3)
            text = screen_text(app)
            if text == before:
                break
            before = text
        svg = app.export_screenshot(title="cellarman")
    app.lookout.stop()
    # The identity of a picture is made from its content, so that an unchanged screen is an unchanged file.
    svg = re.sub(r"terminal-\d+", "terminal-1", _FONT.sub("", svg))
    # A path is shown as that of a real repository; its new length is not to be stretched to the old one.
    svg = re.sub(rf'textLength="[\d.]+"([^>]*>[^<]*{re.escape(str(fleet.root))})', r"\1", svg)
    cut = re.escape(os.path.join(fleet.root.parent, "cellarman-"))
    return re.sub(rf'textLength="[\d.]+"([^>]*>[^<]*){cut}[^/<]*…', r"\1/var/lib/…", svg)


async def _settled(met: Callable[[], bool]) -> None:
    for _ in range(1000):
        if met():
            return
        await asyncio.sleep(0.02)
    raise SystemExit("the console did not get there")


def main() -> int:
    """Write every picture to the folder given, by default screenshots/ of the checkout."""
    folder = (Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "screenshots").resolve()
    folder.mkdir(exist_ok=True)
    prompting.FLASH_SECONDS = 0.1
    os.environ["HOME"] = "/home/dba"
    wanted = sys.argv[2:] or list(PICTURES)
    here = mock.patch("os.getcwd", return_value="/home/dba")
    with here, tempfile.TemporaryDirectory(prefix="cellarman-") as root, fleet_.standing(Path(root)) as fleet:
        for name in wanted:
            for size in SIZES:
                svg = asyncio.run(drawn(fleet, PICTURES[name], size))
                svg = svg.replace(f"{root}/etc/", "/etc/").replace(root, "/var/lib")
                path = folder / f"{name}-{size[0]}x{size[1]}.svg"
                path.write_text(svg, encoding="utf-8")
                print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
