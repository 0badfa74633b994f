"""Clusters of this host show themselves by their sockets, Debian's list and PG* variables."""

from __future__ import annotations

import os
from pathlib import Path

from engine.host import clusters
from tests.support import cluster


def test_a_running_server_is_found_by_its_socket(postgres: cluster.Install, tmp_path: Path) -> None:
    with cluster.running(postgres, tmp_path / "pg") as server:
        directory = server.root
        found = clusters.find({}, [str(directory)])
        [mine] = [each for each in found if each.port == server.port and each.host == str(directory)]
        assert mine.running
        assert mine.conninfo == f"host={directory} port={server.port} dbname=postgres"


def test_the_environment_names_one_and_twice_is_once() -> None:
    environ = {"PGHOST": "db7", "PGPORT": "5444", "PGUSER": "barman"}
    mine = [each for each in clusters.find(environ, []) if each.host == "db7"]
    assert [each.conninfo for each in mine] == ["host=db7 port=5444 user=barman dbname=postgres"]


def test_lock_files_beside_sockets_are_no_clusters(tmp_path: Path) -> None:
    for name in (".s.PGSQL.5432.lock", ".s.PGSQL.x", ".s.PGSQL.6000"):
        os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
    assert [each.port for each in clusters.find({}, [str(tmp_path)]) if each.host == str(tmp_path)] == [6000]
