"""What changed between the plan that was shown and the one that would be done: pure."""

from __future__ import annotations

from engine.recovery.facts import Mark
from engine.recovery.plan import Plan
from engine.recovery.target import EndOfArchive


def differences(shown: Plan, now: Plan) -> list[str]:
    """Return, a sentence each, how `now` is not what was shown; empty when it is the same in what matters.

    That later WAL has arrived is no difference to a plan that replays all there is.
    """
    found: list[str] = []
    for refusal in now.refusals:
        if str(refusal) not in {str(known) for known in shown.refusals}:
            found.append(f"it is refused now: {refusal}")
    if _backup(shown) != _backup(now):
        found.append(f"the backup was {_backup(shown)}, it is {_backup(now)} now")
    if shown.timeline != now.timeline:
        found.append(f"the timeline was {shown.timeline}, it is {now.timeline} now")
    if not isinstance(now.order.target, EndOfArchive):
        found += _moved("the last transaction that stays", shown.kept, now.kept)
        found += _moved("the first that does not", shown.dropped, now.dropped)
    if (shown.leftover is None) != (now.leftover is None):
        found.append(f"what is in {now.order.destination} has changed")
    if shown.copy_bytes != now.copy_bytes and _backup(shown) == _backup(now):
        found.append(f"{shown.copy_bytes} bytes were to be copied, {now.copy_bytes} are now")
    return found


def _backup(plan: Plan) -> str:
    return plan.info.id if plan.info is not None else "none"


def _moved(what: str, shown: Mark | None, now: Mark | None) -> list[str]:
    if shown == now:
        return []
    return [f"{what} was {_said(shown)}, it is {_said(now)} now"]


def _said(mark: Mark | None) -> str:
    return f"xid {mark.xid} at {mark.at.isoformat(' ')}" if mark is not None else "none"
