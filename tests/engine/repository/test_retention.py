"""Retention: the verdicts of Barman 3.19 on the same catalogues, and ours where it has none."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from engine.errors import UsageError
from engine.repository.backupinfo import BackupInfo
from engine.repository.retention import Policy, RecoveryWindow, Redundancy, parse_policy, to_delete, verdicts

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
WAL = "000000010000000000000005"


def backup(days_old: float, **changes: object) -> BackupInfo:
    ended = NOW - timedelta(days=days_old)
    facts: dict[str, object] = {"status": "DONE", "end_time": ended, "begin_wal": WAL, "end_wal": WAL, **changes}
    return BackupInfo(f"{ended:%Y%m%dT%H%M%S}", **facts)  # type: ignore[arg-type]


def states(backups: list[BackupInfo], policy: str, minimum: int = 0) -> list[str]:
    """Return the verdicts, newest backup first."""
    found = verdicts(backups, parse_policy(policy), minimum, NOW)
    return [found[info.id].state for info in sorted(backups, key=lambda info: info.id, reverse=True)]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("REDUNDANCY 3", Redundancy(3)),
        ("redundancy  12 ", Redundancy(12)),
        ("RECOVERY WINDOW OF 7 DAYS", RecoveryWindow(timedelta(days=7))),
        ("recovery window of 1 day", RecoveryWindow(timedelta(days=1))),
        ("Recovery Window Of 2 Weeks", RecoveryWindow(timedelta(days=14))),
        ("RECOVERY WINDOW OF 3 MONTHS", RecoveryWindow(timedelta(days=93))),
    ],
)
def test_both_forms_are_understood(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize("text", ["REDUNDANCY", "REDUNDANCY 0", "REDUNDANCY -1", "7 DAYS", "RECOVERY WINDOW OF 0 DAYS"])
def test_anything_else_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy(text)
    assert text in caught.value.what and "RECOVERY WINDOW OF 7 DAYS" in caught.value.fix


WEEK = [backup(days) for days in range(1, 7)]


def test_without_a_policy_all_are_valid() -> None:
    assert states(WEEK, "") == ["valid"] * 6


def test_redundancy_counts_from_the_newest() -> None:
    assert states(WEEK, "REDUNDANCY 2") == ["valid"] * 2 + ["obsolete"] * 4


def test_a_window_needs_the_newest_backup_that_ended_before_it_begins() -> None:
    assert states(WEEK, "RECOVERY WINDOW OF 3 DAYS") == ["valid"] * 4 + ["obsolete"] * 2
    assert states([backup(30)], "RECOVERY WINDOW OF 3 DAYS") == ["valid"]


def test_minimum_redundancy_protects_what_the_policy_would_let_go() -> None:
    assert states(WEEK, "REDUNDANCY 2", minimum=4) == ["valid"] * 4 + ["obsolete"] * 2, "the greater number counts"
    assert states([backup(30), backup(40), backup(50)], "RECOVERY WINDOW OF 3 DAYS", minimum=2) == [
        "valid",
        "obsolete_protected",
        "obsolete",
    ]


def test_kept_backups_stay_and_only_full_ones_make_older_ones_dispensable() -> None:
    full, alone = backup(1.5, keep="full"), backup(1.5, keep="standalone")
    assert states([full, *WEEK[:4]], "REDUNDANCY 2") == ["valid", "keep_full", "obsolete", "obsolete", "obsolete"]
    assert states([alone, *WEEK[:4]], "REDUNDANCY 2") == ["valid", "keep_standalone", "valid", "obsolete", "obsolete"]
    assert states([alone, *WEEK[1:4]], "RECOVERY WINDOW OF 1 DAY") == [
        "keep_standalone",
        "valid",
        "obsolete",
        "obsolete",
    ]


def test_incrementals_of_a_kept_backup_stay() -> None:
    root = backup(9, keep="full")
    child = backup(8, parent_backup_id=root.id)
    assert states([root, child, *WEEK], "REDUNDANCY 1")[-2:] == ["valid", "keep_full"]


def test_only_whole_backups_count() -> None:
    broken = [backup(0.1, status="FAILED"), backup(0.2, status="STARTED"), backup(0.3, deleting=True)]
    assert states(broken + WEEK, "REDUNDANCY 2") == ["none"] * 3 + ["valid"] * 2 + ["obsolete"] * 4
    waiting = backup(0.1, status="WAITING_FOR_WALS")
    assert states([waiting, backup(9)], "RECOVERY WINDOW OF 3 DAYS") == ["none", "valid"]


def test_incrementals_follow_their_root() -> None:
    old, new = backup(9), backup(2)
    first = backup(8, parent_backup_id=old.id)
    second = backup(7, parent_backup_id=first.id)
    orphan = backup(6, parent_backup_id="20200101T000000")
    loop = backup(5)
    loop = backup(5, parent_backup_id=loop.id)
    assert states([old, new, first, second, orphan, loop], "REDUNDANCY 1") == [
        "valid",
        "none",
        "none",
        "obsolete",
        "obsolete",
        "obsolete",
    ]


def test_incrementals_go_before_what_they_rest_on_and_old_chains_first() -> None:
    old, middle = backup(20), backup(15)
    chain = [old, backup(19, parent_backup_id=old.id), middle, backup(14, parent_backup_id=middle.id)]
    chain.append(backup(13, parent_backup_id=chain[3].id))
    found = verdicts([*chain, backup(1)], parse_policy("REDUNDANCY 1"), 0, NOW)
    order = to_delete([*chain, backup(1)], found)
    assert order == [chain[1].id, chain[0].id, chain[4].id, chain[3].id, chain[2].id]


def test_every_verdict_has_its_reason() -> None:
    found = verdicts(WEEK, parse_policy("RECOVERY WINDOW OF 2 DAYS"), 4, NOW)
    reasons = [verdict.reason for verdict in found.values()]
    assert all(reasons)
    assert "needed to reach back to 2026-11-21 12:00+00:00" in reasons
    assert any("minimum_redundancy = 4 protects it" in reason for reason in reasons)
