"""A repository without a free byte: deleting is what helps, so it works there; what does not, says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import programs

_SCRIPT = """
import os, sys
from pathlib import Path
from engine.repository import deletion, locks, repository
from tests.engine.repository.catalogues import add, archive, empty, segments

layout = empty(Path(sys.argv[1]))
for day, segment in ((1, 3), (2, 6)):
    add(layout, day, segment)
archive(layout, *segments(1, 1, 8))
filler = os.open(os.path.join(sys.argv[1], "filler"), os.O_WRONLY | os.O_CREAT)
for size in (1 << 20, 4096):
    try:
        while os.write(filler, bytes(size)):
            pass
    except OSError:
        pass
with locks.hold(layout.lock("cron")):
    print("held by", locks.holder(layout.lock("cron")))
deletion.delete(layout, "20261101T120000")
print("left", [info.id for info in repository.backups(layout)], os.listdir(layout.meta))
"""


def test_a_backup_can_be_deleted_where_nothing_can_be_written(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (tmp_path / "full.py").write_text(_SCRIPT)
    command = f"mount -t tmpfs -o size=2m tmpfs {mounted} || exit 77; cd {root} && exec {sys.executable} "
    done = programs.run(
        ["unshare", "-Urm", "sh", "-c", f"{command} {tmp_path}/full.py {mounted}"],
        env={"PYTHONPATH": str(root)},
        code=None,
    )
    if done.code == 77 or "unshare" in done.err:
        pytest.skip(f"no private mounts here: {done.err.strip()}")
    assert "held by a process that did not leave its pid" in done.out, done.text
    assert "left ['20261102T120000'] ['20261102T120000-backup.info']" in done.out, done.text


def test_what_only_reads_needs_no_lock_where_none_can_be_made(tmp_path: Path) -> None:
    script = (
        "import sys; from engine.repository import locks\n"
        "with locks.hold(sys.argv[1], what='read', reads=True): print('read')\n"
        "try: locks.hold(sys.argv[1], what='write')\n"
        "except Exception as error: print(error)\n"
    )
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path} || exit 77; "
    done = programs.run(
        ["unshare", "-Urm", "sh", "-c", f'{mount}exec {sys.executable} -c "$0" {tmp_path}/lock', script], code=None
    )
    if done.code == 77 or "unshare" in done.err:
        pytest.skip(f"no private mounts here: {done.err.strip()}")
    assert "read\ncannot open the lock file" in done.out, done.text
