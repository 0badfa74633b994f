"""Command lines of ours that people are told to run: they can be pasted, and read the configuration that was in use."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
import tui
from engine.cli.main import main
from engine.cli.verbs import VERBS
from engine.config import load
from engine.job.spec import SPEC
from engine.job.spec import directory as jobs_directory
from engine.repository import repository
from engine.wal import client
from tests.engine.repository.catalogues import add
from tests.engine.wal import pages

UNCONFIGURED = ("demo", "import-barman")
"""Verbs that read no configuration of ours."""
OURS = re.compile(rf"\bcellarman (?:{'|'.join(verb for verb in VERBS if verb not in UNCONFIGURED)})\b(?! --help)")
"""A command of ours that names no configuration."""
FROM_ARGPARSE = ("engine/cli/usage.py", "engine/cli/verbs.py")
"""What `--help` prints, where the operator's own file is not known."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of every string literal that is no docstring, what is filled in left out."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("package", [engine, tui], ids=["engine", "tui"])
def test_no_text_holds_a_command_that_could_not_name_a_configuration(package: object) -> None:
    root = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    found = [
        f"{file.relative_to(root.parent)}:{line}: {text!r}"
        for file in sorted(root.rglob("*.py"))
        if str(file.relative_to(root.parent)) not in FROM_ARGPARSE
        for line, text in texts(file.read_text())
        if OURS.search(text)
    ]
    assert not found, "make them a Command, and let who shows them name the configuration:\n" + "\n".join(found)


def test_that_looks_at_what_it_should() -> None:
    assert [text for _, text in texts('"""cellarman cron"""\nfix = f"do {x}: cellarman backup {y}"')] == [
        "do ",
        ": cellarman backup ",
    ]
    assert OURS.search("look: cellarman backup main") and OURS.search("`cellarman wal gaps`")
    assert not OURS.search("cellarman demo") and not OURS.search("cellarman backup --help")


class Said:
    """A site whose configuration has a name that a shell would split, and what the verbs print."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.root, self._capfd = root, capfd
        self.file = root / "my site" / "cellarman.toml"
        self.file.parent.mkdir()
        self.write()
        self.layout = load(str(self.file)).server("main").layout

    def write(self, *more: str) -> None:
        lines = [
            "[cellarman]",
            f'barman_home = "{self.root}/barman"',
            f'state_directory = "{self.root}/state"',
            "[servers.main]",
            'conninfo = "host=127.0.0.1 port=1 user=nobody dbname=postgres"',
            *more,
        ]
        self.file.write_text("\n".join(lines) + "\n")

    def __call__(self, *words: str) -> str:
        """Run a verb that does not end well, or has something to say, with the configuration named."""
        return self.plain("--config", str(self.file), *words)

    def plain(self, *words: str) -> str:
        self._capfd.readouterr()
        main(list(words))
        return "".join(self._capfd.readouterr())

    def wal(self, *words: str) -> str:
        self._capfd.readouterr()
        client.main([*words, "--server", "main", "--config", str(self.file)])
        return self._capfd.readouterr().err


@pytest.fixture
def site(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Said:
    return Said(tmp_path, capfd)


def told(site: Said, said: str, *verb: str) -> None:
    """Assert that a text tells to run this verb, on the configuration in use, and no command without it."""
    assert not OURS.search(said), said
    assert shlex.join(["cellarman", "--config", str(site.file), *verb]) in said, said


FAILING: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("check", "mian"), ("config", "show")),
    (("backups", "main"), ("backup", "main")),
    (("show", "main", "latest"), ("backup", "main")),
    (("verify", "main", "latest"), ("backup", "main")),
    (("keep", "main", "latest", "--full"), ("backup", "main")),
    (("delete", "main", "20261122T135801"), ("backup", "main")),
    (("status", "main"), ("backup", "main")),
    (("servers", "--json"), ("backup", "main")),
    (("job", "follow", "none"), ("jobs",)),
    (("restore",), ("restore", "SERVER")),
    (("restore", "main", "auto", "there", "--plan"), ("backup", "main")),
    (("restore", "main", "auto", "there", "--plan", "--json"), ("backup", "main")),
    (("restore", "main", "auto", "there", "--action", "pause"), ("windows", "main")),
    (("wal", "gaps", "main", "--accept", "A"), ("wal", "gaps", "main", "--accept")),
]


@pytest.mark.parametrize(("words", "verb"), FAILING, ids=lambda words: " ".join(words))
def test_what_a_verb_says_to_do_names_the_configuration_in_use(
    site: Said, words: tuple[str, ...], verb: tuple[str, ...]
) -> None:
    repository.prepare(site.layout)
    told(site, site(*words), *verb)


def test_a_configuration_that_cannot_be_read_is_named_too(site: Said) -> None:
    site.write("conninfo = 1 2")
    told(site, site("servers"), "config", "check")
    site.write("no_such_key = 1", "nor_this = 1")
    told(site, site("servers"), "config", "check")


def test_a_file_that_the_environment_names_is_named(site: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLARMAN_CONFIG", str(site.file))
    told(site, site.plain("show", "main", "latest"), "backup", "main")


def test_a_configuration_that_is_found_anyway_is_not_named(site: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(site.root / "config"))
    monkeypatch.delenv("CELLARMAN_CONFIG", raising=False)
    (site.root / "config" / "cellarman").mkdir(parents=True)
    own = site.root / "config" / "cellarman" / "cellarman.toml"
    own.write_text(site.file.read_text())
    for words in ((), ("--config", str(own))):
        assert "now: take one: cellarman backup main\n" in site.plain(*words, "show", "main", "latest")


def test_a_job_that_failed_names_it_whoever_shows_that(site: Said) -> None:
    site.write("archiver = false", "streaming_archiver = false")
    told(site, site("backup", "main", "--wait"), "setup", "main")
    [job] = json.loads(site("jobs", "--json"))["jobs"]
    told(site, job["fix"], "setup", "main")
    told(site, site("job", "follow", job["id"]), "setup", "main")
    told(site, site("job", "cancel", job["id"]), "job", "follow", job["id"])


def test_a_job_that_died_names_its_configuration(site: Said) -> None:
    site.write("archiver = false", "streaming_archiver = false")
    site("backup", "main", "--wait")
    [job] = json.loads(site("jobs", "--json"))["jobs"]
    directory = Path(jobs_directory(str(site.root / "state"))) / job["id"]
    for file in directory.iterdir():
        if file.name not in (SPEC, "lock"):
            file.unlink()
    told(site, site("job", "follow", job["id"]), "cron")


def test_what_keeps_a_backup_from_being_deleted_names_it(site: Said) -> None:
    repository.prepare(site.layout)
    info = add(site.layout, 1, 3)
    site("keep", "main", "latest", "--full")
    said = site("delete", "main", "latest", "--dry-run")
    told(site, said, "keep", "main", info.id, "--release")
    told(site, said, "backup", "main")


def test_the_wal_client_names_it(site: Said) -> None:
    name = pages.name(5)
    os.makedirs(os.path.dirname(site.layout.wal(name)))
    Path(f"{site.layout.wal(name)}.gz").write_bytes(b"")
    told(site, site.wal("get", name, "there"), "wal", "fetch-missing", "main")
    site.file.write_text(site.file.read_text().replace("servers.main", "servers.other"))
    told(site, site.wal("push", "no/such"), "config", "show")
