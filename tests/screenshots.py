"""Export the pictures in screenshots/ from the real console on the fleet: `python -m tests.screenshots [FOLDER]`."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from tests.support import fleet as fleet_
from tests.support.fleet import Fleet
from tui.app import Console

PICTURES: dict[str, tuple[tuple[int, int], list[str]]] = {
    "servers": ((120, 34), []),
    "server": ((120, 34), ["enter"]),
    "job": ((120, 34), ["down", "down", "enter", "enter"]),
    "jobs": ((120, 34), ["j"]),
    "help": ((120, 34), ["down", "down", "enter", "question_mark"]),
    "backup": ((120, 34), ["b"]),
    "servers-80x24": ((80, 24), []),
    "job-80x24": ((80, 24), ["down", "down", "enter", "enter"]),
    "servers-160x45": ((160, 45), []),
    "server-160x45": ((160, 45), ["down", "down", "enter", "down"]),
    "job-160x45": ((160, 45), ["down", "down", "enter", "enter"]),
}
# Fonts from the network have no place in a picture that is looked at offline.
_FONT = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


async def picture(fleet: Fleet, size: tuple[int, int], keys: list[str]) -> str:
    """Return the console after these keys, as SVG."""
    app = Console(fleet.config, now=lambda: fleet.now, theme="cellar", ascii_only=False)
    async with app.run_test(size=size) as pilot:
        await _settled(lambda: app.snapshot.looked)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        if "enter" in keys[-1:] and len(keys) > 3:
            await _settled(lambda: app.snapshot.job is not None and bool(app.snapshot.job.rates))
        await pilot.pause(0.2)
        svg = app.export_screenshot(title="cellarman")
    app.lookout.stop()
    # The identity of a picture is made from its content, so that an unchanged screen is an unchanged file.
    svg = re.sub(r"terminal-\d+", "terminal-1", _FONT.sub("", svg))
    # A path is shown as that of a real repository; its new length is not to be stretched to the old one.
    return re.sub(rf'textLength="[\d.]+"([^>]*>[^<]*{re.escape(str(fleet.root))})', r"\1", svg)


async def _settled(met: object) -> None:
    assert callable(met)
    for _ in range(500):
        if met():
            return
        await asyncio.sleep(0.02)
    raise SystemExit("the console did not get there")


def main() -> int:
    """Write every picture to the folder given, by default screenshots/ of the checkout."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "screenshots"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cellarman-") as root, fleet_.standing(Path(root)) as fleet:
        for name, (size, keys) in PICTURES.items():
            svg = asyncio.run(picture(fleet, size, keys)).replace(root, "/var/lib")
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            print(folder / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
