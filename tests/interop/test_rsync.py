"""Backups by rsync over SSH: Barman and Cellarman link to each other's files, and each restores what the other made."""

from __future__ import annotations

import shlex
from pathlib import Path

from engine.host import openssh
from tests.interop import barman, rows
from tests.support import cluster, programs
from tests.support.sshd import sshd
from tests.support.waiting import until


def test_they_take_turns_with_hard_links(each_postgres: cluster.Install, tmp_path: Path) -> None:
    barman.program()
    with sshd(tmp_path / "far") as far, cluster.running(each_postgres, extra=["-k"]) as server:
        rows.table(server)
        rows.add(server, 1, 1000)
        settings = {"backup_method": "rsync", "reuse_backup": "link", "compression": "gzip"}
        ours = programs.configure(tmp_path, server, **settings, wal_timeout=60)
        with ours.config.open("a") as config:
            config.write(far.table())
        ssh = shlex.join([*openssh.command(far.endpoint), openssh.destination(far.endpoint)])
        theirs = barman.configure(tmp_path, server, ssh_command=ssh, parallel_jobs="2", **settings)
        with ours.spawned("wal", "receive", "main"):
            first = ours.backup("main", "--name", "from-cellarman")
            rows.add(server, 1001, 2000)
            second = theirs.backup()
            rows.add(server, 2001, 3000)
            third = ours.backup()
            moment = rows.add(server, 3001, 4000)
            rows.add(server, 4001, 5000)
            theirs.archive(server)

            assert theirs.ids() == [third, second, first]
            shown = theirs.json("show-backup", "main", first)["main"]
            assert shown["backup_name"] == "from-cellarman" and shown["status"] == "DONE"
            theirs.run("check", "main")
            theirs.run("cron")
            ours.run("cron")
        for backup in (first, second, third):
            theirs.run("check-backup", "main", backup)
        for backup in (first, third):
            ours.run("verify", "main", backup)
        links = [path for path in (tmp_path / "barman/main/base" / third).rglob("*") if path.stat().st_nlink > 1]
        assert len(links) > 100

        # Neither loses anything by the deletion of what it is linked to.
        ours.run("delete", "main", first, "--yes", first)
        theirs.run("delete", "main", second)
        ours.run("verify", "main", third)
        own = ours.json("show", "main", third)
        assert own["deduplicated_bytes"] == own["size_bytes"]

        for name, restore in (("theirs", restored_by_barman), ("ours", restored_by_cellarman)):
            data = tmp_path / name / "data"
            restore(ours, theirs, third, data, moment.isoformat(" "))
            assert rows_of(server.install, data) == (4000, 4000)


def rows_of(install: cluster.Install, data: Path) -> tuple[int, int]:
    """Start a restored cluster, and return its rows once recovery is over."""
    back = rows.opened(install, data)
    try:
        until(lambda: not back.value("SELECT pg_is_in_recovery()"), what="the end of recovery")
        return rows.last(back)
    finally:
        rows.close(install, data)


def restored_by_barman(ours: programs.Cellarman, theirs: barman.Barman, backup: str, data: Path, moment: str) -> None:
    theirs.run(
        "restore", "main", backup, str(data), "--target-time", moment, "--target-action", "promote",
        "--tablespace", f"space:{data.parent / 'space'}",
    )  # fmt: skip


def restored_by_cellarman(
    ours: programs.Cellarman, theirs: barman.Barman, backup: str, data: Path, moment: str
) -> None:
    ours.run(
        "restore", "main", backup, str(data), "--to-time", moment, "--action", "promote",
        "--tablespace", f"space={data.parent / 'space'}", "--yes", str(data),
    )  # fmt: skip
