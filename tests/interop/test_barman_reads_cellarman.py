"""Backups that Cellarman took: real Barman lists, shows, checks, verifies and restores them, and PostgreSQL starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import INSTALLS
from tests.interop import barman, rows
from tests.support import cluster, programs
from tests.support.waiting import until

FORMS = {
    "plain": (18, {"compression": "gzip"}),
    "plain-uncompressed-wal": (17, {"compression": "none"}),
    "tar-gzip": (17, {"backup_compression": "gzip", "backup_compression_location": "client", "compression": "zstd"}),
    "tar-zstd": (15, {"backup_compression": "zstd", "backup_compression_location": "server", "compression": "zstd"}),
    "tar-lz4": (15, {"backup_compression": "lz4", "backup_compression_location": "client", "compression": "lz4"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_barman_checks_and_restores_what_cellarman_wrote(form: str, tmp_path: Path) -> None:
    major, settings = FORMS[form]
    if major not in INSTALLS:
        pytest.skip(f"no PostgreSQL {major} here")
    barman.program()
    if (codec := settings.get("backup_compression")) and shutil.which(codec) is None:
        pytest.skip(f"Barman extracts with the program {codec}, which is not here")
    with cluster.running(INSTALLS[major]) as server:
        rows.table(server)
        rows.add(server, 1, 1000)
        ours = programs.configure(tmp_path, server, **settings)
        theirs = barman.configure(tmp_path, server, **settings)
        with ours.spawned("wal", "receive", "main"):
            backup = ours.backup("main", "--name", "from-cellarman")
            moment = rows.add(server, 1001, 2000)
            rows.add(server, 2001, 3000)
            last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
            server.sql("CHECKPOINT")
            until(lambda: (ours.run("wal", "ingest", "main"), last in archived(tmp_path))[1], what="the WAL")

            assert theirs.ids() == [backup]
            shown = theirs.json("show-backup", "main", "latest")["main"]
            assert shown["backup_name"] == "from-cellarman" and shown["status"] == "DONE"
            assert shown["system_id"] == server.system_id
            theirs.run("check", "main")
        theirs.run("check-backup", "main", "latest")
        if "backup_compression" not in settings:
            theirs.run("verify-backup", "main", "latest")

        data = tmp_path / "back" / "data"
        theirs.run(
            "restore", "main", backup, str(data), "--target-time", moment.isoformat(" "), "--target-action", "promote",
            "--tablespace", f"space:{tmp_path / 'moved-space'}", *staging(settings, tmp_path),
        )  # fmt: skip
        restored = rows.opened(server.install, data)
        try:
            until(lambda: not restored.value("SELECT pg_is_in_recovery()"), what="the end of recovery")
            assert rows.last(restored) == (2000, 2000)
        finally:
            rows.close(server.install, data)


def archived(root: Path) -> set[str]:
    return {path.name for path in (root / "barman" / "main" / "wals").glob("*/*")}


def staging(settings: dict[str, str], root: Path) -> list[str]:
    """Return what Barman wants to know before it extracts a compressed backup."""
    if "backup_compression" not in settings:
        return []
    (root / "staging").mkdir()
    return ["--recovery-staging-path", str(root / "staging")]
