"""The configuration as a whole: order of files, where each value is from, and every kind of mistake."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import tomli

from engine.config import DEFAULT, Config, Server, Source, describe, load, places
from engine.config.keys import GLOBAL_KEYS, SERVER_KEYS
from engine.config.load import InvalidConfig
from engine.errors import ConfigError, NotFound
from engine.host.endpoint import Endpoint

Write = Callable[[str], str]
EXAMPLE = Path(__file__).parents[3] / "config.example.toml"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "cellarman.toml", mode: int = 0o644) -> str:
        file = tmp_path / name
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    return write


def refusal(path: str) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        load(path, env={})
    assert caught.value.exit_code == 2
    return caught.value


def only(path: str) -> str:
    """Return the three lines of a configuration with exactly one problem."""
    error = refusal(path)
    assert len(error.problems) == 1, error.problems
    return "\n".join(error.lines(""))


GOOD = """\
[cellarman]
barman_home = "/srv/barman"
compression = "lz4"

[servers.main]
conninfo = "host=pg user=barman dbname=postgres"
streaming_archiver = true
slot_name = "cellarman"
bandwidth_limit = "20Mi"
[servers.main.ssh]
host = "pg"
port = 2222

[servers.other]
conninfo = "host=pg2 user=barman dbname=postgres"
archiver = true
compression = "none"
"""


def test_values_and_where_they_were_said(write: Write) -> None:
    path = write(GOOD)
    config = load(path, env={"HOME": "/nonexistent"})
    main, other = config.server("main"), config.server("other")
    assert (main.barman_home, main.compression, other.compression) == ("/srv/barman", "lz4", "none")
    assert main.streaming_conninfo == main.conninfo
    assert main.bandwidth_limit == 20480
    assert main.ssh == Endpoint("pg", port=2222)
    assert other.ssh is None
    assert config.files == (path,)
    assert config.sources["", "barman_home"] == Source(path, 2)
    assert config.sources["main", "compression"] == Source(path, 3)
    assert config.sources["main", "streaming_conninfo"] == Source(path, 6)
    assert config.sources["main", "ssh.port"] == Source(path, 12)
    assert config.sources["other", "compression"] == Source(path, 17)
    assert config.sources["other", "slot_name"] == DEFAULT
    assert config.sources["main", "name"] == Source(path, 5)
    assert config.warnings == ()


def test_every_field_of_a_server_can_be_said_and_every_key_is_a_field() -> None:
    plain = {key for key in SERVER_KEYS if not key.startswith("ssh.")}
    assert plain == {f.name for f in fields(Server)} - {"name", "barman_home", "ssh", "origin"}
    assert {key[4:] for key in SERVER_KEYS if key.startswith("ssh.")} == {f.name for f in fields(Endpoint)} - {
        "control"
    }
    assert set(GLOBAL_KEYS) <= {f.name for f in fields(Config)}


def test_order_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, own = tmp_path / "etc", tmp_path / "xdg" / "cellarman"
    (etc / "conf.d").mkdir(parents=True)
    own.mkdir(parents=True)
    monkeypatch.setattr(places, "SYSTEM_FILE", str(etc / "cellarman.toml"))
    monkeypatch.setattr(places, "SYSTEM_DIRECTORY", str(etc / "conf.d"))
    server = '[servers.main]\narchiver = true\nconninfo = "host=a"\n'
    (etc / "cellarman.toml").write_text(f"{server}parallel_jobs = 3\nminimum_redundancy = 1\nwal_timeout = 5\n")
    (etc / "conf.d" / "20.toml").write_text("[servers.main]\nparallel_jobs = 5\nminimum_redundancy = 5\n")
    (etc / "conf.d" / "10.toml").write_text("[servers.main]\nparallel_jobs = 4\n")
    (etc / "conf.d" / "notes.txt").write_text("not TOML")
    (own / "cellarman.toml").write_text("[servers.main]\nminimum_redundancy = 7\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    config = load(env=env)
    assert [os.path.basename(name) for name in config.files] == [
        "cellarman.toml",
        "10.toml",
        "20.toml",
        "cellarman.toml",
    ]
    main = config.server("main")
    assert (main.wal_timeout, main.parallel_jobs, main.minimum_redundancy) == (5, 5, 7)
    assert config.sources["main", "parallel_jobs"] == Source(str(etc / "conf.d" / "20.toml"), 2)

    alone = tmp_path / "alone.toml"
    alone.write_text("[servers.alone]\n")
    for given in (load(str(alone), env=env), load(env={**env, "CELLARMAN_CONFIG": str(alone)})):
        assert given.files == (str(alone),)
        assert list(given.servers) == ["alone"]

    said = load(
        env={**env, "CELLARMAN_BARMAN_HOME": "/else", "CELLARMAN_LOCK_TIMEOUT": "9", "CELLARMAN_READ_ONLY": "true"}
    )
    assert (said.barman_home, said.server("main").lock_timeout, said.read_only) == ("/else", 9, True)
    assert str(said.sources["", "barman_home"]) == "environment variable CELLARMAN_BARMAN_HOME"
    assert load(env=env, read_only=True).sources["", "read_only"] == Source("--read-only")


def test_a_file_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "etc"
    closed.mkdir()
    (closed / "cellarman.toml").write_text("[servers.main]\n")
    monkeypatch.setattr(places, "SYSTEM_FILE", str(closed / "cellarman.toml"))
    monkeypatch.setattr(places, "SYSTEM_DIRECTORY", str(closed / "conf.d"))
    closed.chmod(0)
    try:
        with pytest.raises(ConfigError) as caught:
            load(env={"XDG_CONFIG_HOME": str(tmp_path)})
    finally:
        closed.chmod(0o700)
    assert "cannot be read" in caught.value.what
    assert "Permission denied" in caught.value.why


def test_no_configuration_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SYSTEM_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setattr(places, "SYSTEM_DIRECTORY", str(tmp_path / "none.d"))
    with pytest.raises(ConfigError) as caught:
        load(env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert str(tmp_path / "cellarman" / "cellarman.toml") in caught.value.why
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[servers.main]\narchivr = true\n", 2, ('unknown key "archivr"', "nearest: archiver")),
        ("[cellarman]\nbarman_hom = '/x'\n", 2, ('unknown key "barman_hom"', "nearest: barman_home")),
        ("[server.main]\n", 1, ('unknown table "server"', "nearest: [servers]")),
        ("[main]\nconninfo = ''\n", 1, ('"main"', "[servers.main]")),
        ("[servers.main.sssh]\nhost = 'x'\n", 1, ("unknown table [servers.main.sssh]", "nearest: [servers.main.ssh]")),
        ("[servers.shop.db]\narchiver = true\n", 1, ("unknown table", '[servers."shop.db"]')),
        ("[servers.main.ssh]\nprt = 22\n", 2, ('"ssh.prt"', "nearest: ssh.port")),
        ("[servers.main]\nssh_command = 'ssh pg'\n", 2, ("a key of Barman", "[servers.NAME.ssh]")),
        ("[servers.main]\nbarman_home = '/x'\n", 2, ("does not belong", "[cellarman]")),
        ("[servers.all]\n", 1, ('"all"', "choose another name")),
        ('[servers."a/b"]\n', 1, ('"a/b"', "choose another name")),
        ("[servers]\nmain = 3\n", 2, ('"main"', "not a table")),
        ("servers = 3\n", 1, ("must be a table",)),
        ("[servers.main]\n\n\narchiver = 'on'\n", 4, ('archiver = "on"', "true or false, without quotes")),
        ("[servers.main]\narchiver = 1\n", 2, ("archiver = 1", "true or false")),
        ("[servers.main]\nparallel_jobs = true\n", 2, ("parallel_jobs = true", "a whole number from 1 to 256")),
        ("[servers.main]\nparallel_jobs = '2'\n", 2, ("without quotes",)),
        ("[servers.main]\nparallel_jobs = 0\n", 2, ("from 1 to 256",)),
        ("[servers.main]\ncompression = 'zst'\n", 2, ('"none", "gzip", "lz4", "zstd"',)),
        ("[servers.main]\nretention_policy = 'RECOVERY WINDOW OF 7'\n", 2, ('"RECOVERY WINDOW OF 7 DAYS"',)),
        ("[servers.main]\nretention_policy = 'REDUNDANCY 0'\n", 2, ('"REDUNDANCY 3"',)),
        ("[servers.main]\nlast_backup_maximum_age = '1'\n", 2, ('"1 DAY"',)),
        ("[servers.main]\nlast_backup_minimum_size = '10 Q'\n", 2, ('"10Mi"',)),
        ("[servers.main]\nlast_backup_minimum_size = -1\n", 2, ('"10Mi"',)),
        ("[servers.main]\nbandwidth_limit = '1k'\n", 2, ("0 is unlimited",)),
        ("[servers.main]\nwals_directory = 'wals'\n", 2, ("absolute path",)),
        ("[servers.main]\nwals_directory = '~nobody-here/wals'\n", 2, ("nobody here is ~nobody-here",)),
        ("[servers.main]\nslot_name = 'Cellarman-1'\n", 2, ("lower-case letters",)),
        ("[servers.main]\nconninfo = 'host pg'\n", 2, ('a word without "="',)),
        ("[servers.main]\nstreaming_archiver = true\n", 2, ("needs a slot_name", 'slot_name = "cellarman"')),
        ("[servers.main]\ncompression_level = 12\ncompression = 'gzip'\n", 2, ("gzip takes 1 to 9",)),
        ("[servers.main]\nbackup_compression_level = 3\n", 2, ('add: backup_compression = "zstd"',)),
        (
            "[servers.main]\nbackup_compression = 'gzip'\nbackup_compression_workers = 2\n",
            3,
            ("only zstd has workers",),
        ),
        ("[servers.main]\nbackup_method = 'rsync'\n", 2, ("[servers.main.ssh]",)),
        ("[servers.main]\nreuse_backup = 'link'\n", 2, ("reuse_backup with", 'backup_method = "rsync"')),
        ("[servers.main]\ntablespace_bandwidth_limit = 'fast:1Mi'\n", 2, ("tablespace_bandwidth_limit with",)),
        ("[servers.main]\ntablespace_bandwidth_limit = 'fast'\n", 2, ("NAME:LIMIT",)),
        ("[servers.main]\nnetwork_compression = 'gz'\n", 2, ('true, false, or one of "none", "auto"',)),
        (
            "[servers.main]\nbackup_method = 'local-rsync'\nbackup_compression = 'gzip'\n",
            3,
            ("only pg_basebackup compresses",),
        ),
    ],
)
def test_one_mistake_is_one_clear_error(write: Write, text: str, line: int, words: tuple[str, ...]) -> None:
    path = write(text)
    said = only(path)
    assert said.startswith(f"{path}:{line}: ")
    for word in words:
        assert word in said
    assert said.count("\n") <= 3


def test_what_belongs_to_rsync(write: Write) -> None:
    text = """
    [servers.main]
    backup_method = "rsync"
    reuse_backup = "copy"
    network_compression = true
    tablespace_bandwidth_limit = "fast:20Mi, slow:512"
    ssh = { host = "pg" }
    """
    main = load(str(write(text)), env={}).server("main")
    assert (main.reuse_backup, main.network_compression) == ("copy", "auto")
    assert main.tablespace_bandwidth_limit == (("fast", 20480), ("slow", 512))


def test_all_mistakes_at_once(write: Write) -> None:
    path = write("[servers.main]\narchivr = true\nparallel_jobs = 0\n[cellarmann]\n")
    error = refusal(path)
    assert error.what == "the configuration has 3 problems"
    assert [p.source.line for p in error.problems] == [2, 3, 4]
    assert "(nearest: archiver)" in error.why


def test_two_servers_in_one_place(write: Write) -> None:
    path = write("[servers.a]\nbackup_directory = '/srv/x'\n[servers.b]\nbackup_directory = '/srv/x/'\n")
    said = "\n".join(refusal(path).lines(""))
    assert f"{path}:4" in said
    assert "of a already" in said
    path = write("[servers.a]\nbackup_directory = '/srv/x'\n[servers.b]\nbackup_directory = '/srv/x/deep'\n")
    assert "overlap" in only(path)
    path = write("[servers.a]\nincoming_wals_directory = '/srv/q'\nstreaming_wals_directory = '/srv/q'\n")
    assert "/srv/q" in only(path)
    path = write("[cellarman]\nwals_directory = '/srv/wals'\n[servers.a]\n[servers.b]\n")
    assert "wals_directory of b" in only(path)


SECRET = "[servers.main]\narchiver = true\nconninfo = \"host=pg user=u password='it is'\"\n"


def test_a_password_is_a_warning_and_never_shown(write: Write) -> None:
    path = write(SECRET, mode=0o600)
    config = load(path, env={})
    [about, _] = config.warnings
    assert "a password stands in conninfo" in about.what
    assert "~/.pgpass" in about.fix
    assert "pg:5432:*:u:PASSWORD" in about.fix
    shown = repr(describe(config)) + repr(config.warnings)
    assert "it is" not in shown
    assert "password=********" in shown


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_password_that_others_may_read_is_refused(write: Write, mode: int) -> None:
    path = write(SECRET, mode=mode)
    said = only(path)
    assert said.startswith(f"{path}:3: conninfo of main has a password; others may read the file")
    assert f"chmod 0600 {path}" in said or os.geteuid() == 0
    assert "it is" not in said


def test_a_password_in_a_bad_conninfo_is_not_shown(write: Write) -> None:
    said = only(write("[servers.main]\nconninfo = 'host=pg password=hunter2 user'\n", mode=0o600))
    assert "hunter2" not in said


def test_omissions_are_warnings(write: Write) -> None:
    config = load(write("[servers.main]\nretention_policy = 'REDUNDANCY 1'\nminimum_redundancy = 2\n"), env={})
    whats = [warning.what for warning in config.warnings]
    assert len(whats) == 3
    assert "no conninfo" in whats[0]
    assert "no WAL reaches" in whats[1]
    assert "which wins" in whats[2]
    assert load(write("[servers.main]\nactive = false\n"), env={}).warnings == ()
    assert "no server" in load(write(""), env={}).warnings[0].what
    odd = load(write("[servers.main]\nactive = false\n"), env={"CELLARMAN_BARMAN_HOM": "/x"})
    assert "nearest: CELLARMAN_BARMAN_HOME" in odd.warnings[0].fix


def test_an_unknown_server_gets_the_nearest(write: Write) -> None:
    config = load(write(GOOD), env={})
    with pytest.raises(NotFound) as caught:
        config.server("mian")
    assert caught.value.lines("")[:2] == ['no server "mian"', 'why: nearest: "main"; servers: main, other']
    with pytest.raises(NotFound, match="no server at all"):
        load(write(""), env={}).server("main")


def test_state_directory(tmp_path: Path) -> None:
    assert places.state_directory({"XDG_STATE_HOME": "/s"}, 1000) == "/s/cellarman"
    assert places.state_directory({"HOME": str(tmp_path)}, 1000) == f"{tmp_path}/.local/state/cellarman"
    assert places.state_directory({"HOME": str(tmp_path)}, 110) == "/var/lib/cellarman"
    assert places.state_directory({"HOME": "/nonexistent"}, 1000) == "/var/lib/cellarman"
    assert places.state_directory({"HOME": str(tmp_path)}, 65534) == "/var/lib/cellarman"


def test_home_directories_are_expanded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load(
        write("[cellarman]\nbarman_home = '~/barman'\n[servers.main]\nssh.identity_file = '~/.ssh/id'\n"), env={}
    )
    assert config.barman_home == "/home/someone/barman"
    assert config.server("main").ssh == Endpoint("", identity_file="/home/someone/.ssh/id")


def test_the_example_has_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    config = load(str(EXAMPLE), env={})
    assert config.warnings == ()
    for key in [*GLOBAL_KEYS, *SERVER_KEYS]:
        assert f"\n{key.removeprefix('ssh.')} = " in text or f"\n# {key} = " in text, key
    defaults = {**{f.name: f.default for f in fields(Server)}, **{f"ssh.{f.name}": f.default for f in fields(Endpoint)}}
    main = tomli.loads(text)["servers"]["main"]
    said = {**{k: v for k, v in main.items() if k != "ssh"}, **{f"ssh.{k}": v for k, v in main["ssh"].items()}}
    lines = text.splitlines()
    for key, value in said.items():
        line = lines[config.sources["main", key].line - 1]
        assert value == defaults[key] or "default" in line or key == "conninfo" or "needed" in line, line


def test_the_example_is_right_when_every_comment_is_taken_away(tmp_path: Path) -> None:
    text = "\n".join(
        line[2:]
        if line.startswith("# ") and " = " in line and line.split()[1] in {*GLOBAL_KEYS, *SERVER_KEYS}
        else line
        for line in EXAMPLE.read_text().splitlines()
    )
    file = tmp_path / "all.toml"
    # compression_level needs no more than the defaults; levels of "none" are rightly refused
    file.write_text(text.replace('backup_compression = "none"', 'backup_compression = "zstd"'))
    config = load(str(file), env={})
    assert config.server("main").compression_level == 1
