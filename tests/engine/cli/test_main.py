"""The command line as a process: help, usage errors, exit codes, streams, and what is imported."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import __version__
from engine.cli import usage
from engine.cli.flags import Globals, split_globals
from engine.cli.main import main
from engine.cli.verbs import VERBS
from engine.errors import UsageError

COMMAND = [sys.executable, "-m", "engine.cli.main"]
CONFIG = """\
[cellarman]
barman_home = "{home}"
state_directory = "{home}/state"
[servers.main]
conninfo = "host=127.0.0.1 port=1 user=nobody"
archiver = true
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "cellarman.toml"
    file.write_text(CONFIG.format(home=tmp_path))
    return str(file)


def call(*words: str, env: dict[str, str] | None = None, shell: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shell or [*COMMAND, *words],
        text=True,
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=60,
        check=False,
        shell=bool(shell),
    )


def test_version() -> None:
    for flag in ("--version", "-V"):
        done = call(flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"cellarman {__version__} ")


def test_overview_names_every_verb() -> None:
    done = call("--help", env={"COLUMNS": "80"})
    assert max(map(len, done.stdout.splitlines())) <= 81
    done = call("--help", env={"COLUMNS": "200"})
    assert done.returncode == 0
    unfolded = re.sub(r"\n {8,}", " ", done.stdout)
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", unfolded, re.MULTILINE)
    for flag in ("--config", "--read-only", "--json", "--debug"):
        assert flag in done.stdout


@pytest.mark.parametrize("name", VERBS)
def test_help_of_each_verb(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: cellarman {name}")
    for example in VERBS[name].examples:
        assert example in text
    assert "exit codes:" in text


def test_help_as_a_word() -> None:
    assert call("help").stdout == call("--help").stdout
    assert call("help", "check").stdout == call("check", "--help").stdout
    assert call("help", "chekc").returncode == 2


@pytest.mark.parametrize("name", VERBS)
def test_examples_are_understood(name: str) -> None:
    module = importlib.import_module(f"engine.cli.{name.replace('-', '_')}")
    for example in VERBS[name].examples:
        import shlex

        flags = Globals()
        words = split_globals(shlex.split(example)[1:], flags)
        assert words[0] == name
        assert not flags.json or VERBS[name].json
        parser = usage.parser(name)
        module.add_arguments(parser)
        parser.parse_args(words[1:])


def test_every_verb_module_is_in_the_table() -> None:
    folder = Path(usage.__file__).parent
    modules = {file.stem for file in folder.glob("*.py") if "def add_arguments(" in file.read_text()}
    assert modules == {name.replace("-", "_") for name in VERBS}


@pytest.mark.parametrize(
    ("words", "what", "now"),
    [
        (["bakcup"], 'unknown verb "bakcup"', "cellarman backup --help"),
        (["xyzzy"], 'unknown verb "xyzzy"', "cellarman --help"),
        (["--verbose"], "unknown flag --verbose", "cellarman --help"),
        (["check"], "cellarman check: the following arguments are required", "cellarman check --help"),
        (
            ["check", "main", "--no-such"],
            "cellarman check: unrecognized arguments: --no-such",
            "cellarman check --help",
        ),
        (["config", "chekc"], "cellarman config: argument check|show: invalid choice", "cellarman config --help"),
        (["--config"], "--config needs a file", "cellarman --config FILE"),
        (["agent", "--json"], "cellarman agent has no --json form", "cellarman agent --help"),
    ],
)
def test_wrong_usage(words: list[str], what: str, now: str) -> None:
    done = call(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith(what)
    assert lines[-1].startswith(f"now: {now}")
    assert 2 <= len(lines) <= 3


def test_nearest_verb_and_nearest_choice() -> None:
    assert "why: nearest: backups" in call("backpus").stderr
    assert "nearest: check" in call("config", "chekc").stderr


def test_global_flags_stand_anywhere(config: str) -> None:
    for words in (
        ["--config", config, "--json", "config", "check"],
        ["config", "--json", "check", f"--config={config}"],
        ["config", "check", "--config", config, "--json"],
    ):
        done = call(*words)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["files"] == [config]
    flags = Globals()
    assert split_globals(["a", "--", "--json"], flags) == ["a", "--", "--json"]
    assert not flags.json
    with pytest.raises(UsageError):
        split_globals(["--config="], flags)


def test_config_check_and_show(config: str, tmp_path: Path) -> None:
    done = call("config", "check", "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ok: {config}; servers: main\n"
    done = call("config", "show", "main", "--said", "--config", config)
    assert re.search(rf"^archiver +\= true +# {re.escape(config)}:6$", done.stdout, re.MULTILINE)
    values = json.loads(call("config", "show", "--json", "--config", config).stdout)["values"]
    assert {"server": "main", "key": "archiver", "value": True, "source": f"{config}:6"} in values
    assert call("config", "show", "nobody", "--config", config).returncode == 2

    bad = tmp_path / "bad.toml"
    bad.write_text("[servers.main]\narchivr = true\n")
    done = call("config", "check", "--config", str(bad))
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f'{bad}:2: unknown key "archivr" in [servers.main]'
    document = json.loads(call("config", "check", "--json", "--config", str(bad)).stdout)
    assert document["status"] == "fail"
    assert document["errors"][0] == {
        "file": str(bad),
        "line": 2,
        "what": 'unknown key "archivr" in [servers.main]',
        "fix": "nearest: archiver",
    }
    assert call("config", "check", "--json", "--config", str(bad)).returncode == 2


def test_missing_configuration_and_server(config: str) -> None:
    done = call("check", "main", "--config", "/nonexistent/c.toml")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "/nonexistent/c.toml: no such configuration file",
    )
    done = call("check", "maim", env={"CELLARMAN_CONFIG": config})
    assert done.returncode == 2
    assert 'nearest: "main"' in done.stderr


def test_check_of_a_server_that_is_down(config: str) -> None:
    done = call("check", "main", "--config", config)
    assert done.returncode == 1
    assert done.stdout.startswith("main: fail\n")
    assert re.search(r"^  fail  PostgreSQL +cannot connect to host=127.0.0.1", done.stdout, re.MULTILINE)
    document = json.loads(call("check", "main", "--json", "--config", config).stdout)
    assert document["server"] == "main"
    assert document["status"] == "fail"
    assert {"name", "status", "detail", "fix"} == set(document["checks"][0])
    everything = json.loads(call("check", "all", "--json", "--config", config).stdout)
    assert [server["server"] for server in everything["servers"]] == ["main"]


def test_closed_and_full_standard_output(config: str) -> None:
    show = " ".join([*COMMAND, "config", "show", "--config", config])
    done = call(shell=f"{show} | true")
    assert done.stderr == ""
    done = call(shell=f"{show} >&-")
    assert done.stderr == ""
    done = call(shell=f"{show} > /dev/full")
    assert done.returncode == 4
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


DEFECT = """
import sys
from engine.cli import config, main
def broken(args, _config):
    raise {error}
config.run = broken
sys.exit(main.main([{flags}"config", "check"]))
"""


def broken(error: str, flags: str = "") -> subprocess.CompletedProcess[str]:
    code = DEFECT.format(error=error, flags=flags)
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, check=False)


def test_errors_are_lines_and_debug_shows_a_traceback_without_secrets() -> None:
    secret = "ValueError('host=pg password=hunter2')"
    done = broken(secret)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "password=********" in done.stderr
    done = broken(secret, "'--debug', ")
    assert done.returncode == 4
    assert "Traceback" in done.stderr
    assert "hunter2" not in done.stderr
    done = broken("__import__('engine.errors').errors.Refused('what', 'why', 'fix')")
    assert (done.returncode, done.stderr) == (3, "what\nwhy: why\nnow: fix\n")
    assert broken("KeyboardInterrupt()").returncode == 130
    assert "Traceback" not in broken("KeyboardInterrupt()").stderr


def test_interrupt_from_the_keyboard(config: str) -> None:
    """A server that never answers keeps `check` busy; Ctrl-C ends it with 130."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        text = Path(config).read_text().replace("port=1 ", f"port={silent.getsockname()[1]} ")
        Path(config).write_text(text)
        running = subprocess.Popen(
            [*COMMAND, "check", "main", "--config", config], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(30)
        peer, _ = silent.accept()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
        peer.close()
    assert running.returncode == 130
    assert "Traceback" not in errors


def test_without_a_terminal_it_lists_the_servers(config: str) -> None:
    done = call("--config", config)
    assert done.stdout == call("servers", "--config", config).stdout
    assert "main" in done.stdout


def test_on_a_terminal_it_needs_a_configuration() -> None:
    parent, child = pty.openpty()
    done = subprocess.run(
        [*COMMAND, "--config", "/nonexistent/c.toml"], stdin=child, stdout=child, stderr=subprocess.PIPE, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    os.close(parent)
    os.close(child)
    assert done.returncode == 2
    assert "no such configuration file" in done.stderr
