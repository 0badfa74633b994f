"""The engine's values as lines: what is folded where it is narrow, and what a job that found something wrong says."""

from __future__ import annotations

import pytest

from engine.job.spec import PHASES
from engine.job.state import JobState
from tests.support.fleet import NOW
from tui import wording
from tui.format import width_of
from tui.glyphs import UNICODE

ALL = PHASES["aftermath"]


def proof(seen: int, status: str = "running", **facts: object) -> JobState:
    return JobState(
        "1",
        "aftermath",
        "main",
        status,  # type: ignore[arg-type]
        NOW,
        phase=ALL[seen - 1],
        phases_seen=ALL[:seen],
        **facts,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("width", [30, 50, 76, 200])
@pytest.mark.parametrize("seen", range(1, len(ALL) + 1))
def test_phases_fit_and_the_one_at_work_is_always_named(seen: int, width: int) -> None:
    line = wording.phases(proof(seen), ALL, width, UNICODE)
    text = "".join(part for part, _ in line)
    assert width_of(line) <= max(width, 36)
    assert f"↻ {ALL[seen - 1]}" in text


def test_phases_are_whole_where_there_is_room() -> None:
    text = "".join(part for part, _ in wording.phases(proof(3), ALL, 200, UNICODE))
    assert text.split("   ")[:4] == ["✓ server", "✓ backup", "↻ marker", "· lanes"]
    narrow = "".join(part for part, _ in wording.phases(proof(3), ALL, 40, UNICODE))
    assert narrow.startswith("✓ 2 done   ↻ marker") and narrow.endswith("to come")


def test_a_job_that_is_done_and_found_something_wrong_is_not_shown_as_good() -> None:
    found = proof(9, "done", result={"good": False, "summary": "the lane archive_command failed"})
    assert wording.job_sign(found, UNICODE) == ("!", "soon")
    assert "found something wrong" in "".join(text for text, _ in wording.job_sentence(found))
    assert wording.remark(found) == "the lane archive_command failed"
    good = proof(9, "done", result={"good": True, "summary": "it is proven"})
    assert wording.job_sign(good, UNICODE) == ("✓", "good") and wording.remark(good) == ""
