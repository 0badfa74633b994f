"""A Barman configuration in every spelling that Barman takes: the import says what real Barman understands by it."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config, load
from tests.interop import barman
from tests.support.programs import BIN, Outcome, run

MAIN = """\
[barman]
barman_user = {user}
barman_home = {root}/home
configuration_files_directory = {root}/conf.d
log_file = {root}/barman.log
compression = gzip
retention_policy = RECOVERY WINDOW OF 4 WEEKS
minimum_redundancy = 2
bandwidth_limit = 4000
keepalive_interval = 30

[main]
description =  "the shop's own database"
conninfo = host=nowhere.invalid user=barman dbname=postgres connect_timeout=1
streaming_conninfo = %(conninfo)s application_name=b
backup_method = postgres
streaming_archiver = on
slot_name = barman
retention_policy = None
minimum_redundancy = 5
path_prefix = "/usr/lib/postgresql/18/bin"
last_backup_maximum_age = 2 DAYS
last_backup_minimum_size = 1Gi
pre_backup_script = /bin/echo hello
bandwith_limit = 1
parallel_jobs = 1
parallel_jobs = 3

[files]
description = rsync over ssh
conninfo = host=nowhere.invalid connect_timeout=1
ssh_command = ssh -q -p 2222 -i {root}/key -oConnectTimeout=3 postgres@db.example
archiver = true
active = false
backup_directory = {root}/home/elsewhere/files
wals_directory = %(backup_directory)s/w
"""
INCLUDED = """\
[main]
parallel_jobs = 4

[third]
backup_method = local-rsync
conninfo = host=nowhere.invalid connect_timeout=1
archiver = on
"""
SAME = {
    "active",
    "archiver",
    "backup_method",
    "bandwidth_limit",
    "compression",
    "conninfo",
    "description",
    "immediate_checkpoint",
    "minimum_redundancy",
    "path_prefix",
    "slot_name",
    "streaming_archiver",
    "streaming_conninfo",
}
PLACES = {
    "backup_directory": "home",
    "basebackups_directory": "base",
    "wals_directory": "wals",
    "incoming_wals_directory": "incoming",
    "streaming_wals_directory": "streaming",
    "errors_directory": "errors",
}


def imported(root: Path) -> tuple[Config, Outcome]:
    done = run([str(BIN / "cellarman"), "import-barman", str(root / "barman.conf")])
    (root / "cellarman.toml").write_text(done.out)
    (root / "cellarman.toml").chmod(0o600)
    return load(str(root / "cellarman.toml"), env={}), done


def write(root: Path, text: str = MAIN) -> None:
    (root / "home").mkdir(exist_ok=True)
    (root / "conf.d").mkdir(exist_ok=True)
    (root / "barman.conf").write_text(text.format(user=getpass.getuser(), root=root))


def value(config: Config, server: str, key: str) -> Any:
    if key in PLACES:
        return getattr(config.server(server).layout, PLACES[key])
    return getattr(config.server(server), key)


def test_it_says_what_barman_understands(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "conf.d" / "b.conf").write_text(INCLUDED)
    (tmp_path / "conf.d" / "ignored.txt").write_text("[main]\nparallel_jobs = 9\n")
    (tmp_path / "home" / ".barman.auto.conf").write_text("[third]\ndescription = by barman itself\n")
    config, done = imported(tmp_path)
    said = barman.Barman(tmp_path / "barman.conf", "main").run("diagnose", code=None).out
    answer = json.loads(said)
    theirs = {name: found["config"] for name, found in answer["servers"].items()}
    assert set(config.servers) == set(theirs) == {"main", "files", "third"}
    for server, key in ((server, key) for server in theirs for key in sorted(SAME | PLACES.keys())):
        wanted, found = theirs[server].get(key), value(config, server, key)
        if key == "streaming_conninfo" and wanted is None:
            wanted = config.server(server).conninfo
        assert found == wanted or (not found and not wanted), f"{server}.{key}: {found!r} is not {wanted!r}"
    assert config.server("main").retention_policy == ""
    assert config.server("third").retention_policy == "RECOVERY WINDOW OF 4 WEEKS"
    assert config.server("main").last_backup_minimum_size == 1 << 30
    assert config.server("main").parallel_jobs == 4
    ssh = config.server("files").ssh
    assert ssh is not None
    assert (str(ssh), ssh.identity_file) == ("postgres@db.example:2222", str(tmp_path / "key"))
    assert "bandwith_limit is no key of Barman; nearest: bandwidth_limit" in done.err
    assert "hooks are not run by cellarman: pre_backup_script" in done.err
    assert "[barman] keepalive_interval has no effect in Barman either" in done.err
    assert "for Host db.example: -o ConnectTimeout=3" in done.err


def test_the_active_model_is_laid_over(tmp_path: Path) -> None:
    write(tmp_path, MAIN + "\n[two]\nmodel = true\ncluster = main\nconninfo = host=second.invalid\n")
    (tmp_path / "home" / "main").mkdir()
    (tmp_path / "home" / "main" / ".active-model.auto").write_text("two")
    config, done = imported(tmp_path)
    assert config.server("main").conninfo == "host=second.invalid"
    assert set(config.servers) == {"main", "files"}
    assert "has the model two applied" in done.err


def test_a_password_comes_along_and_is_named_not_shown(tmp_path: Path) -> None:
    write(tmp_path, MAIN.replace("user=barman", "user=barman password=sesame123"))
    config, done = imported(tmp_path)
    assert "sesame123" in config.server("main").conninfo
    assert "sesame123" not in done.err and "move it to ~/.pgpass" in done.err


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"barman.conf": "[main]\nconninfo = x\n"}, "has no barman_home"),
        ({"barman.conf": MAIN + "\n[x]\nconninfo = %(nothing)s\n"}, "refers to %(nothing)s"),
        ({"barman.conf": "what is this\n"}, "is not a Barman configuration"),
        ({"barman.conf": MAIN, "conf.d/x.conf": "[barman]\ncompression = lz4\n"}, "has a section [barman]"),
    ],
)
def test_what_barman_refuses_is_refused(tmp_path: Path, files: dict[str, str], words: str) -> None:
    write(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text.format(user=getpass.getuser(), root=tmp_path))
    done = run([str(BIN / "cellarman"), "import-barman", str(tmp_path / "barman.conf")], code=2)
    assert words in done.err and done.out == ""
    assert run([str(BIN / "cellarman"), "import-barman", str(tmp_path / "nothing")], code=2).out == ""
