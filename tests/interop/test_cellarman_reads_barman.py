"""Backups that real Barman took: Cellarman lists, shows, verifies and restores them, and PostgreSQL starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import INSTALLS
from tests.interop import barman, rows
from tests.support import cluster, programs
from tests.support.waiting import until

FORMS = {
    "plain": (18, {}),
    "tar-gzip": (17, {"backup_compression": "gzip", "backup_compression_location": "client", "compression": "gzip"}),
    "tar-zstd": (15, {"backup_compression": "zstd", "backup_compression_location": "server", "compression": "zstd"}),
    "tar-lz4": (15, {"backup_compression": "lz4", "backup_compression_location": "server", "compression": "lz4"}),
    "tar-none": (18, {"backup_compression": "none", "backup_compression_format": "tar"}),
    "file-copy": (17, {"backup_method": "local-rsync"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_backup_of_barmans_is_listed_verified_and_restored_to_a_moment(form: str, tmp_path: Path) -> None:
    major, settings = FORMS[form]
    if major not in INSTALLS:
        pytest.skip(f"no PostgreSQL {major} here")
    barman.program()
    with cluster.running(INSTALLS[major]) as server:
        rows.table(server)
        rows.add(server, 1, 1000)
        theirs = barman.configure(tmp_path, server, **settings)
        ours = programs.configure(tmp_path, server)
        with theirs.receiving(server):
            backup = theirs.backup("--name", "from-barman")
            moment = rows.add(server, 1001, 2000)
            rows.add(server, 2001, 3000)
            theirs.archive(server)

        listed = ours.json("backups", "main")["backups"]
        assert [(entry["id"], entry["name"], entry["status"]) for entry in listed] == [(backup, "from-barman", "done")]
        shown = ours.json("show", "main", "from-barman")
        assert backup in str(shown)
        verified = ours.run("verify", "main", "latest", code=1 if form == "file-copy" else 0)
        assert form != "file-copy" or "backup_manifest" in verified.text  # without one there is nothing to read against

        moved = tmp_path / "moved-space"
        words = ["restore", "main", "auto", str(tmp_path / "back" / "data"), "--to-time", moment.isoformat()]
        words += ["--tablespace", f"space={moved}", "--action", "promote", "--yes", str(tmp_path / "back" / "data")]
        plan = ours.json(*words, "--plan")
        assert plan["reachable"] and plan["backup"] == backup
        ours.run(*words)
        restored = rows.opened(server.install, tmp_path / "back" / "data")
        try:
            until(lambda: not restored.value("SELECT pg_is_in_recovery()"), what="the end of recovery")
            assert rows.last(restored) == (2000, 2000)
        finally:
            rows.close(server.install, tmp_path / "back" / "data")
