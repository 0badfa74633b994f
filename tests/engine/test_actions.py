"""Actions that are over at once: allowed or not, done on a real repository and a real server, and written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import trail
from engine.actions import Actions, label_of
from engine.cli import main as cli
from engine.errors import Busy, CellarmanError, Refused, UsageError
from engine.job import launch, spec
from engine.recovery import choices
from engine.repository import repository
from tests.engine.recovery.scene import scene
from tests.support.cluster import Install
from tests.support.fleet import NOW, Fleet, write_config


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(tmp_path)
    server = made.server("main", minimum_redundancy=0)
    made.backup(server, NOW, 3)
    made.backup(server, NOW.replace(hour=2), 2, status="FAILED", error="cut")
    return made


def newest(fleet: Fleet) -> str:
    return repository.find(fleet.servers["main"].layout, "latest").id


def outcomes(fleet: Fleet) -> list[tuple[str, str]]:
    return [(entry.action, entry.outcome) for entry in trail.read(fleet.config.state_directory)]


def test_keep_and_label_are_done_and_written_down(fleet: Fleet) -> None:
    actions, backup = Actions(fleet.config, "console"), newest(fleet)
    actions.keep("main", "latest", "standalone")
    assert repository.find(fleet.servers["main"].layout, backup).keep == "standalone"
    actions.label("main", backup, "  before\tthe move ")
    assert label_of(fleet.servers["main"], backup) == "before the move"
    actions.label("main", backup, "")
    assert label_of(fleet.servers["main"], backup) == ""
    entries = trail.read(fleet.config.state_directory)
    assert [(e.action, e.subject, e.via) for e in entries] == [
        ("label", backup, "console"),
        ("label", backup, "console"),
        ("keep", backup, "console"),
    ]
    assert entries[1].command.endswith(f"label main {backup} --text 'before the move'")


def test_read_only_forbids_and_that_is_written_down(fleet: Fleet) -> None:
    actions = Actions(fleet.config, read_only=True)
    for act in (
        lambda: actions.keep("main", "latest", "full"),
        lambda: actions.label("main", "latest", "x"),
        lambda: actions.switch_wal("main"),
        lambda: actions.restore_point("main", "x"),
        lambda: launch.launch(fleet.config, spec.make(fleet.config, "fetch", "main"), read_only=True),
        lambda: launch.launch(fleet.config, spec.make(fleet.config, "aftermath", "main"), read_only=True),
        lambda: actions.accept_gap("main", "0" * 24, "0" * 24, "x"),
    ):
        with pytest.raises(Refused, match="read-only"):
            act()
    assert {outcome for _, outcome in outcomes(fleet)} == {"refused"}
    assert len(outcomes(fleet)) == 7


def test_what_cannot_be_is_refused_with_its_reason(fleet: Fleet) -> None:
    actions = Actions(fleet.config)
    failed = next(info.id for info in repository.backups(fleet.servers["main"].layout) if info.status == "FAILED")
    with pytest.raises(Refused, match="not labelled"):
        actions.label("main", failed, "x")
    with pytest.raises(Refused, match="not kept"):
        actions.keep("main", failed, "full")
    with pytest.raises(UsageError):
        actions.label("main", "latest", "x" * 201)
    with pytest.raises(UsageError):
        actions.restore_point("main", "")
    with pytest.raises(UsageError):
        actions.restore_point("main", "ä" * 32)
    with pytest.raises(Refused, match="conninfo"):
        Actions(fleet.config).switch_wal("main")


def test_the_command_line_writes_the_same(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    config, backup = write_config(fleet), newest(fleet)
    assert cli.main(["--config", config, "label", "main", "latest", "--text", "a [label]"]) == 0
    assert cli.main(["--config", config, "show", "main", backup]) == 0
    assert "a [label]" in capsys.readouterr().out
    assert cli.main(["--config", config, "keep", "main", backup, "--full"]) == 0
    assert cli.main(["--config", config, "delete", "main", backup, "--yes", backup]) == 3
    assert cli.main(["--config", config, "label", "main", "latest", "--remove", "--read-only"]) == 3
    assert cli.main(["--config", config, "delete", "main", backup, "--dry-run"]) == 3
    assert outcomes(fleet) == [("label", "refused"), ("delete", "refused"), ("keep", "done"), ("label", "done")]


def test_marks_on_a_real_server(postgres: Install) -> None:
    with scene(postgres) as stage:
        stage.insert()
        stage.backup()
        actions = Actions(stage.config)
        stage.insert()
        made = actions.restore_point("main", "before upgrade")
        assert made.switched
        said = actions.hand_over("main")
        assert "is archived" in said
        choices.catch_up(stage.server)
        assert [each.name for each in choices.ready(stage.server) if each.kind == "restore_point"] == ["before upgrade"]
        assert stage.plan(choices.ready(stage.server)[1].target).reachable
        stage.cluster.configure(archive_command="/bin/false")
        stage.cluster.sql("SELECT pg_reload_conf()")
        stage.insert()
        with pytest.raises(Busy, match="has not been archived"):
            actions.hand_over("main", wait=1)
        stage.cluster.stop()
        with pytest.raises(CellarmanError):
            actions.switch_wal("main")
        assert [entry.outcome for entry in trail.read(stage.config.state_directory)] == [
            "failed",
            "failed",
            "done",
            "done",
        ]
