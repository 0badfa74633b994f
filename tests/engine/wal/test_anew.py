"""What begins receiving anew, from the words of a PostgreSQL that no longer has what receiving would go on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import Server, load
from engine.wal import anew

REMOVED = "pg_receivewal: error: ERROR:  requested WAL segment 000000010000000000000013 has already been removed"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    file = tmp_path / "cellarman.toml"
    file.write_text(
        f'[cellarman]\nbarman_home = "{tmp_path}/a home"\n[servers.main]\nactive = false\n'
        'streaming_archiver = true\nslot_name = "cellarman"\n'
    )
    return load(str(file), env={}).server("main")


def test_a_segment_that_the_server_removed_is_let_go_once_what_was_received_of_it_is_archived(server: Server) -> None:
    path = f"'{server.layout.streaming}/000000010000000000000013.partial'"
    push, renew, backup = anew.commands(server, REMOVED, ["000000010000000000000013.partial"]).splitlines()
    assert push == f"cellarman-wal push {path} --server main && rm {path}"
    assert renew == "SELECT pg_drop_replication_slot('cellarman');  -- in psql"
    assert backup.startswith("cellarman backup main  # ")


def test_where_nothing_of_the_removed_segment_was_received_the_slot_is_renewed(server: Server) -> None:
    assert anew.commands(server, REMOVED, []).startswith("SELECT pg_drop_replication_slot('cellarman');  -- in psql")
    manual = anew.commands(replace(server, create_slot="manual"), REMOVED, [])
    assert "SELECT pg_create_physical_replication_slot('cellarman', true);  -- in psql" in manual


def test_a_slot_that_is_gone_is_made_by_hand_where_it_is_not_made_by_itself(server: Server) -> None:
    said = anew.commands(server, 'ERROR:  replication slot "cellarman" does not exist', [])
    assert said.startswith("SELECT pg_create_physical_replication_slot('cellarman', true);")
    assert anew.commands(server, "could not connect to server", []) == ""
