"""The check of what the archive holds, on real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.check import facts, wal
from engine.check.facts import Unknown
from engine.check.result import CheckResult
from engine.wal.accepted import Accepted, accept
from engine.wal.findings import at_a_glance
from tests.engine.wal import pages
from tests.engine.wal.judgement.archive_of import NOW, Repo


def check(repo: Repo) -> CheckResult:
    nothing = Unknown("not asked")
    known = facts.Facts(repo.server, NOW, "", (), nothing, nothing, {}, nothing, nothing)
    assert wal.archive(known).status == "skip"
    return wal.archive(replace(known, archive=at_a_glance(repo.server, NOW)[1]))


def test_holes_fail_until_they_are_accepted_and_a_later_backup_makes_them_a_warning(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.put("1/1..1/9").backup(2, 3, hour=10)
    assert check(repo) == CheckResult("WAL archive", "ok", "nothing is missing")
    repo.path(1, 6).unlink()
    found = check(repo)
    assert (found.status, found.fix) == ("fail", "cellarman backup main") and pages.name(6) in found.detail
    repo.backup(7, 8, hour=2)
    assert check(repo).status == "warn"
    accept(repo.layout, Accepted(pages.name(6), pages.name(6), "known", NOW, "dba"))
    assert check(repo) == CheckResult("WAL archive", "ok", "nothing is missing but what was accepted (1)")
