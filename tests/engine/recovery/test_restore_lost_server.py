"""A server that is lost for good: its last commits are in a segment that was received in part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.engine.recovery.scene import scene, value
from tests.support.cluster import Install


def test_the_last_commits_of_a_lost_server_are_had_by_what_the_plan_says(postgres: Install) -> None:
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        stage.insert()
        stage.archive_all()
        assert not any("lost for good" in line for line in stage.plan().warnings)
        last = stage.insert()
        name = stage.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        os.makedirs(stage.server.layout.streaming, exist_ok=True)
        partial = os.path.join(stage.server.layout.streaming, f"{name}.partial")
        shutil.copy(stage.cluster.data / "pg_wal" / name, partial)
        said = next(line for line in stage.plan().warnings if "lost for good" in line)
        command = said.partition("plan again: ")[2]
        environ = {
            **os.environ,
            "CELLARMAN_CONFIG": str(stage.root / "cellarman.toml"),
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        }
        subprocess.run(["sh", "-ec", command], env=environ, check=True, timeout=60)
        os.unlink(f"/tmp/{name}")
        with stage.restored() as (result, conninfo):
            assert result["verdict"] == "open", result
            assert value(conninfo, "SELECT count(*) FROM kept") == last.rows
