"""What a proof found, kept with its date in <server>/.cellarman/aftermath/."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from engine.repository import files
from engine.repository.layout import Layout

Status = Literal["ok", "fail", "skip"]
KEPT = 100
"""Reports that are kept; older ones are removed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the proof."""

    name: str
    status: Status
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One proof of one server."""

    server: str
    began: datetime
    ended: datetime
    proven: bool
    """Whether the marker was read back."""
    steps: tuple[Step, ...]
    backup: str
    """The backup that was restored; "" when it did not come to that."""
    answer: str
    """Whether this server needs both lanes."""

    @property
    def good(self) -> bool:
        """Whether every step went well."""
        return self.proven and all(step.status != "fail" for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "began": self.began.isoformat(),
            "ended": self.ended.isoformat(),
            "proven": self.proven,
            "good": self.good,
            "backup": self.backup,
            "steps": [asdict(step) for step in self.steps],
            "answer": self.answer,
        }


def directory(layout: Layout) -> str:
    return os.path.join(layout.own, "aftermath")


def keep(layout: Layout, report: Report) -> str:
    """Write the report durably and return where it is."""
    place = directory(layout)
    os.makedirs(place, mode=0o750, exist_ok=True)
    path = os.path.join(place, f"{report.began:%Y%m%dT%H%M%SZ}.json")
    files.replace(path, (json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n").encode())
    for name in _reports(place)[:-KEPT]:
        files.remove(os.path.join(place, name))
    return path


def _reports(place: str) -> Sequence[str]:
    return sorted(name for name in os.listdir(place) if name.endswith("Z.json"))
