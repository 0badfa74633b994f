"""A server is appended to a configuration as text: comments and order stay, what is wrong is refused first."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import adding
from engine.errors import CellarmanError, ConfigError

BEFORE = """\
# our servers, see the wiki
[cellarman]
barman_home = "/srv/barman"   # big disk

[servers.crm]   # do not touch before Friday
conninfo = "host=crm"
archiver = true
"""
VALUES: dict[str, str | bool | int] = {"conninfo": "host=erp", "streaming_archiver": True, "slot_name": "cellarman"}


def test_everything_that_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "cellarman.toml"
    path.write_text(BEFORE)
    path.chmod(0o640)
    config = adding.add_server(str(path), "erp", VALUES)
    assert sorted(config.servers) == ["crm", "erp"]
    assert config.servers["erp"].slot_name == "cellarman"
    text = path.read_text()
    assert text.startswith(BEFORE)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["cellarman.toml"]


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cellarman.toml"
    config = adding.add_server(str(path), "main", VALUES, barman_home="/srv/b")
    assert config.barman_home == "/srv/b"
    assert config.servers["main"].streaming_archiver


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("crm", VALUES, 'there is a server "crm" already'),
        ("all", VALUES, "is taken by a word of the command line"),
        ("a b", VALUES, "holds more than"),
        ("erp", {**VALUES, "retention_policy": "for ever"}, "retention_policy"),
        ("erp", {**VALUES, "colour": "red"}, "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, values: dict[str, str | bool | int], said: str
) -> None:
    path = tmp_path / "cellarman.toml"
    path.write_text(BEFORE)
    with pytest.raises(ConfigError) as refused:
        adding.add_server(str(path), name, values)
    assert said in "\n".join(refused.value.lines(""))
    assert ".trial-" not in "\n".join(refused.value.lines(""))
    assert path.read_text() == BEFORE


def test_quotes_and_dots_are_written_as_toml_has_them(tmp_path: Path) -> None:
    path = tmp_path / "cellarman.toml"
    config = adding.add_server(str(path), "erp.eu", {**VALUES, "description": 'say "hi"\t\\ there'})
    assert config.servers["erp.eu"].description == 'say "hi"\t\\ there'


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cellarman.toml"
    path.write_text(BEFORE)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CellarmanError) as refused:
            adding.add_server(str(path), "erp", VALUES)
    finally:
        tmp_path.chmod(0o700)
    assert "the system refused" in refused.value.what
