"""Doing what a plan says: the files, the settings, pg_control last, everything on disk, then perhaps the start."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, Busy, CellarmanError, Refused
from engine.event import Reporter, Silent
from engine.faults import step
from engine.host.local import ThisHost
from engine.postgres.controlfile import ControlFile, read_control
from engine.recovery import copying, farstart, remote, source, start
from engine.recovery.copying import Item, Meter
from engine.recovery.extraction import extract
from engine.recovery.furnish import furnish
from engine.recovery.place import MARKER
from engine.recovery.plan import Order, Plan
from engine.recovery.planner import PROVING_QUICKLY, make_plan
from engine.recovery.sending import LAST
from engine.repository import files, locks, repository


def work(config: Config, server: Server, report: Reporter, *, job: str, **arguments: Any) -> dict[str, Any]:
    """Do the restore that a job's arguments order (`Order.to_arguments`, and "planned" to hold it to a plan)."""
    del config, job
    return execute(arguments, server, report)


def execute(arguments: Mapping[str, Any], server: Server, report: Reporter) -> dict[str, Any]:
    """Plan again, restore, start if that was asked for; return JSON-ready facts of what came out.

    Raises Refused when the plan is refused, or is no longer the one that was agreed to: "planned" holds that one's
    backup and timeline. On any error nothing half-made is left behind.
    """
    order = Order.from_arguments(server.name, arguments)
    plan = make_plan(
        server, order, now=datetime.now(timezone.utc), report=report, proving=PROVING_QUICKLY, compare=False
    )
    if plan.refused is not None:
        raise plan.refused
    assert plan.info is not None
    _agreed(plan, arguments.get("planned"))
    for warning in plan.warnings:
        report.note(warning, "warn")
    report.backup(plan.info.id)
    what = f"restore backup {plan.info.id}"
    lock = server.layout.lock(plan.info.id)
    with locks.hold(lock, wait=server.lock_timeout, what=what, shared=True, reads=True):
        try:
            remote.restore(server, plan, report) if plan.endpoint else _restore(server, plan, report)
        except OSError as error:
            again = "put right what is named, and run the restore again; nothing half-made is left"
            raise CellarmanError(f"the restore into {order.destination} failed", str(error), again) from error
    document = {**_outcome(plan), "good": True}
    where = f"{order.destination} on {plan.endpoint}" if plan.endpoint else order.destination
    if not order.start:
        summary = f"{where} holds backup {plan.info.id}, to be recovered to {order.target} when it is started"
        return {**document, "summary": summary}
    verdict = farstart.start_there(server, plan, report) if plan.endpoint else start.start(server, plan, report)
    if verdict.state == "failed":
        raise CellarmanError(
            f"PostgreSQL did not recover {where} to {order.target}",
            verdict.text,
            Advice(
                f"see its log, {verdict.log}, and what is wrong with the WAL: ",
                cellarman("wal", "gaps", server.name),
            ),
        )
    return {**document, **verdict.to_json(), "summary": verdict.summary}


def _agreed(plan: Plan, planned: Mapping[str, Any] | None) -> None:
    now = {"backup": plan.info.id if plan.info else None, "timeline": plan.timeline}
    if planned is not None and {key: planned.get(key) for key in now} != now:
        raise Refused(
            "the plan has changed since it was shown",
            f"it was backup {planned.get('backup')} on timeline {planned.get('timeline')}, "
            f"it is backup {now['backup']} on timeline {now['timeline']} now",
            Advice(plan.order.command("--plan")),
        )


def _outcome(plan: Plan) -> dict[str, Any]:
    full = plan.to_json("")
    return {key: full[key] for key in ("destination", "host", "backup", "timeline", "target", "wal", "copy_bytes")}


def _restore(server: Server, plan: Plan, report: Reporter) -> None:
    info, order = plan.info, plan.order
    assert info is not None
    repository.load(server.layout, info.id)  # under the lock: it has not been deleted since the plan was made
    content = source.look(server.layout, info, order.destination, plan.placed)
    with _making(plan, report):
        made = _bring(server, plan, content, report)
        step("restore.copied")
        control = _control(server, plan)
        facts = repository.facts(server.layout, info.id)
        for line in furnish(plan, control, facts.get("restore_settings", {}), ThisHost()):
            report.note(line)
        step("restore.furnished")
        _sync(server, made, _directories(plan.roots), report)
        step("restore.synced")
        os.rename(os.path.join(order.destination, LAST), os.path.join(order.destination, source.CONTROL))
        files.sync_directory(os.path.join(order.destination, "global"))
        step("restore.complete")


@contextmanager
def _making(plan: Plan, report: Reporter) -> Iterator[None]:
    """Make the directories and the marker that says they are not whole; at the end remove the marker, or, when
    something went wrong, all that was made."""
    destination = plan.order.destination
    roots = plan.roots
    new = [root for root in roots if not os.path.isdir(root)]
    _make_root(destination)
    marker = _mark(plan)
    try:
        if plan.leftover is not None:
            report.note(f"removing what an interrupted restore left in {destination}")
            _clear([destination, *plan.leftover.directories], but=MARKER)
        for root in roots[1:]:
            _make_root(root)
        step("restore.begun")
        yield
    except BaseException:
        report.note("removing what was restored so far", "warn")
        _clear(roots)
        for root in reversed(new):
            if os.path.isdir(root):
                os.rmdir(root)
        raise
    finally:
        os.close(marker)
    files.remove(os.path.join(destination, MARKER))
    files.sync_directory(destination)


def _mark(plan: Plan) -> int:
    """Put the marker into the destination and return it, open and locked; raises Busy when another restore has it."""
    path = os.path.join(plan.order.destination, MARKER)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        others = [name for name in os.listdir(plan.order.destination) if name != MARKER]
        if others and plan.leftover is None:
            raise Refused(
                f"{plan.order.destination} is not empty any more", f"it holds {others[0]}", "choose another directory"
            )
        directories = {os.path.realpath(root) for root in plan.roots[1:]}
        directories.update(plan.leftover.directories if plan.leftover else ())
        document = {"backup": plan.info.id if plan.info else "", "directories": sorted(directories)}
        os.ftruncate(fd, 0)
        files.write_all(fd, json.dumps(document).encode())
        os.fsync(fd)
        files.sync_directory(plan.order.destination)
    except BlockingIOError as error:
        os.close(fd)
        raise Busy(
            f"another restore into {plan.order.destination} is running", str(error), Advice(cellarman("jobs"))
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_root(path: str) -> None:
    """Make a directory that PostgreSQL accepts: its own, closed to others."""
    os.makedirs(path, 0o700, exist_ok=True)
    os.chmod(path, 0o700)
    files.sync_directory(os.path.dirname(path))


def _clear(roots: Sequence[str], *, but: str = "") -> None:
    """Remove everything in these directories, the marker last, so that a crash here can be told and finished."""
    for root in reversed(roots):
        if not os.path.isdir(root):
            continue
        with os.scandir(root) as entries:
            found = sorted(entries, key=lambda entry: entry.name == MARKER)
        for entry in found:
            if entry.name == but:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _bring(server: Server, plan: Plan, content: source.Source, report: Reporter) -> list[str]:
    """Copy or extract the backup; return the files made."""
    report.phase("copy", f"to {plan.order.destination}")
    for path in content.directories:
        os.makedirs(path, 0o700, exist_ok=True)
    meter = Meter(report, content.read_bytes, len(content.items) if content.items else None)
    made: list[str] = []
    try:
        if content.tars:
            made = _extract_all(content, meter)
        else:
            # The longest first, so that no thread is left alone with one at the end.
            items = sorted(content.items, key=lambda item: item.size, reverse=True)
            copying.in_threads(lambda item: copying.copy_file(item, meter), items, max(2, server.parallel_jobs), meter)
            made = [item.destination for item in items]
    finally:
        meter.stopped.set()
    meter.finish()
    return made


def _extract_all(content: source.Source, meter: Meter) -> list[str]:
    made: list[list[str]] = []

    def rename(name: str) -> str:
        return LAST if name == source.CONTROL else name

    def skip(name: str) -> bool:
        return name in source.LEFT_OUT and name != source.CONTROL

    def task(position: int) -> None:
        tar, directory = content.tars[position]
        made.append(extract(tar, directory, meter, skip=skip, rename=rename))

    numbers = [Item(tar.path, directory, position) for position, (tar, directory) in enumerate(content.tars)]
    copying.in_threads(lambda item: task(item.size), numbers, 2, meter)
    return [path for paths in made for path in paths]


def _control(server: Server, plan: Plan) -> ControlFile:
    """Return the restored pg_control, which lies under its temporary name, and is the right system's."""
    info = plan.info
    assert info is not None
    path = os.path.join(plan.order.destination, LAST)
    if not info.is_tar:
        original = os.path.join(repository.data_directory(server.layout, info.id), source.CONTROL)
        copying.copy_file(Item(original, path, os.path.getsize(original)), Meter(Silent(), 0))
    try:
        with open(path, "rb") as file:
            control = read_control(file.read())
    except FileNotFoundError as error:
        raise CellarmanError(
            f"backup {info.id} holds no {source.CONTROL}", str(error), "restore another backup"
        ) from error
    source.must_be_of(info, control)
    return control


def _directories(roots: Sequence[str]) -> list[str]:
    """Return every directory that was made, deepest first."""
    found: list[str] = []
    for root in roots:
        found += [where for where, _, _ in os.walk(root)]
    return found[::-1]


def _sync(server: Server, made: Sequence[str], directories: Sequence[str], report: Reporter) -> None:
    report.phase("sync", f"{len(made)} files")
    meter = Meter(report, 0)
    last = os.path.join(directories[-1], LAST) if directories else ""
    names = dict.fromkeys([*made, last] if last and os.path.exists(last) else made)
    items = [Item(path, path, 0) for path in names]
    copying.in_threads(lambda item: files.sync_file(item.destination), items, max(2, server.parallel_jobs), meter)
    for path in directories:
        files.sync_directory(path)
