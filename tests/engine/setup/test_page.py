"""The SSH page: its configuration loads, its verbs exist, and the pieces that it lists are those that setup prints."""

from __future__ import annotations

import re
from pathlib import Path

from engine.cli.verbs import VERBS
from engine.config import load
from tests.support.programs import Cellarman

PAGE = (Path(__file__).parents[3] / "docs" / "ssh.md").read_text()


def test_the_configuration_and_the_pieces(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "cellarman.toml"
    # an address where nobody listens, so that nothing outside is asked
    file.write_text(text.replace("/var/lib", str(tmp_path)).replace("host=pg", "host=127.0.0.1 port=1"))
    config = load(str(file), env={})
    server = config.server("main")
    assert (server.backup_method, str(server.ssh), server.backup_host) == ("rsync", "postgres@pg", "barman@backup")
    assert config.warnings == ()

    file.write_text(file.read_text().replace('host = "pg"', 'host = "127.0.0.1"\nport = 1'))
    printed = [piece["name"] for piece in Cellarman(file).json("setup", "main")["pieces"]]
    table = PAGE.partition("| piece |")[2].partition("\n\n")[0]
    listed = re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert len(listed) > 10
    for name in listed:
        kind = name.partition(" of ")[0]  # of which account and host is another thing on this machine
        assert any(found.startswith(kind) for found in printed), (name, printed)


def test_the_verbs() -> None:
    words = re.findall(r"\$ cellarman ([\w-]+)", PAGE)
    assert {"setup", "check", "backup", "aftermath", "restore"} <= set(words) <= set(VERBS)
