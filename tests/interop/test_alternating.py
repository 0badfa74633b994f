"""Barman and Cellarman taking turns in one home: each sees, keeps and deletes what the other made."""

from __future__ import annotations

from pathlib import Path

from tests.interop import barman, rows
from tests.support import cluster, programs
from tests.support.waiting import until


def test_they_take_turns_in_one_home(postgres: cluster.Install, tmp_path: Path) -> None:
    barman.program()
    with cluster.running(postgres) as server:
        rows.table(server)
        ours = programs.configure(tmp_path, server, compression="gzip")
        theirs = barman.configure(tmp_path, server, compression="gzip")
        # Cellarman receives for both: Barman takes the lock's holder for its own receive-wal.
        with ours.spawned("wal", "receive", "main"):
            rows.add(server, 1, 100)
            first = ours.backup()
            rows.add(server, 101, 200)
            second = theirs.backup()
            rows.add(server, 201, 300)
            third = ours.backup()
            rows.add(server, 301, 400)
            fourth = theirs.backup()
            moment = rows.add(server, 401, 500)
            rows.add(server, 501, 600)
            theirs.archive(server)

            assert theirs.ids() == [fourth, third, second, first]
            assert our_ids(ours) == [fourth, third, second, first]
            theirs.run("cron")
            ours.run("cron")

        ours.run("keep", "main", second, "--full")
        assert theirs.run("keep", "--status", "main", second).out.strip().endswith("full")
        theirs.run("delete", "main", second, code=None)
        assert second in theirs.ids()
        theirs.run("keep", "--release", "main", second)
        assert all(entry["keep"] is None for entry in ours.json("backups", "main")["backups"])

        ours.run("delete", "main", first, "--yes", first)
        assert theirs.ids() == [fourth, third, second]
        theirs.run("delete", "main", second)
        assert our_ids(ours) == [fourth, third]
        for backup in (third, fourth):
            ours.run("verify", "main", backup)
            theirs.run("check-backup", "main", backup)

        data = tmp_path / "back" / "data"
        ours.run("restore", "main", third, str(data), "--to-time", moment.isoformat(), "--action", "promote",
                 "--tablespace", f"space={tmp_path / 'moved'}", "--yes", str(data))  # fmt: skip
        restored = rows.opened(server.install, data)
        try:
            until(lambda: not restored.value("SELECT pg_is_in_recovery()"), what="the end of recovery")
            assert rows.last(restored) == (500, 500)
        finally:
            rows.close(server.install, data)


def our_ids(ours: programs.Cellarman) -> list[str]:
    return [entry["id"] for entry in ours.json("backups", "main")["backups"]]
