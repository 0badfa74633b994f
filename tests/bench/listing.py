"""The catalogue at scale: 200 backups and 200,000 archived segments."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.bench.measure import Result, at_most, in_turn
from tests.support import cluster, programs

BACKUPS = 200
SEGMENTS = 200_000


def run(root: Path, scale: int, repeat: int) -> Iterator[Result]:
    installs = cluster.installs()
    with cluster.running(installs[max(installs)]) as server:
        ours = programs.configure(root, server)
        with ours.spawned("wal", "receive", "main"):
            backup = ours.backup()
    home = root / "barman" / "main"
    _multiply(home, backup)
    argv = ours.argv("backups", "main")
    (took,) = in_turn(7, (lambda: None, lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)))
    yield at_most(f"cellarman backups, {BACKUPS} backups and {SEGMENTS:,} WAL files", 1000 * took, 200, "ms")


def _multiply(home: Path, backup: str) -> None:
    """Make the catalogue as large as asked, by copies of its one backup's description and by empty segments."""
    info = (home / "meta" / f"{backup}-backup.info").read_text()
    begin = datetime.strptime(backup, "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    for n in range(1, BACKUPS):
        older = f"{begin - timedelta(hours=n):%Y%m%dT%H%M%S}"
        (home / "meta" / f"{older}-backup.info").write_text(info)
        (home / "base" / older / "data").mkdir(parents=True)
    with (home / "wals" / "main-xlog.db").open("a") as index:
        for n in range(SEGMENTS):
            log, segment = divmod(n + 0x100, 0x100)
            name = f"00000001{log:08X}{segment:08X}"
            place = home / "wals" / name[:16]
            if segment == 0:
                place.mkdir(exist_ok=True)
            (place / name).touch()
            index.write(f"{name}\t16777216\t1795340806.25\tzstd\tNone\n")
