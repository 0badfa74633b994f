"""The whole loop: a marker through every lane, a backup, a restore in a sandbox, the marker read back, all of it timed.

A run that was killed leaves its sandbox; the next run finds it by `running.json` and removes it first.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

from engine import amounts, faults
from engine.aftermath import delivery, marker, report, sandbox
from engine.aftermath.marker import Marker
from engine.aftermath.report import Report, Step
from engine.check import facts as facts_
from engine.commands import cellarman
from engine.config import Config, Server
from engine.errors import Advice, CellarmanError, Refused, Unproven
from engine.event import Level, Note, Progress, Reporter
from engine.job import follow, launch
from engine.job import spec as spec_
from engine.postgres import connection
from engine.postgres.connection import ServerFacts
from engine.repository import files, locks, repository
from engine.setup import lanes
from engine.wal.ingest import ingest

T = TypeVar("T")

PHASES = {
    "reach the server": "server",
    "write a marker": "marker",
    "archive it": "archive",
    "plan the restore": "plan",
    "start it": "start",
    "read the marker back": "read back",
}
"""What a step is called as a phase of the job, where it has a longer name in the report."""

SMALL = 256 << 20
"""Bytes of a cluster that is backed up anew for every proof; a larger one's last good backup is proven."""
PATIENCE = 120.0
"""Seconds that a WAL lane may take, unless said otherwise."""


@dataclass
class Loop:
    """One run: what it works on, and its steps so far."""

    config: Config
    server: Server
    report: Reporter
    take_backup: bool | None
    """None: when there is no good one, or the cluster is small."""
    place: str
    """Where the sandbox is made; "" for where temporary files go."""
    patience: float
    """Seconds that a lane may take."""
    steps: list[Step] = field(default_factory=list)
    backup: str = ""

    def run(self) -> Report:
        """Prove the loop and keep the report. Raises Refused before anything is touched; what fails later is a step."""
        refuse(self.server)
        began = datetime.now(timezone.utc)
        os.makedirs(report.directory(self.server.layout), mode=0o750, exist_ok=True)
        with locks.hold(os.path.join(report.directory(self.server.layout), "lock"), what="prove the loop"):
            self._clear_what_was_left()
            proven = False
            try:
                proven = self._prove(f"{began:%Y%m%dT%H%M%SZ}")
            except CellarmanError as error:
                if not self.steps or self.steps[-1].status != "fail":
                    self.steps.append(Step("aftermath", "fail", 0.0, "\n".join(error.lines(self.config.named))))
            now = datetime.now(timezone.utc)
            answer = lanes.answer(facts_.gather(self.config, self.server, now))
            done = Report(self.server.name, began, now, proven, tuple(self.steps), self.backup, answer)
            self.report.note(f"report: {report.keep(self.server.layout, done)}")
        return done

    def _prove(self, stamp: str) -> bool:
        with ExitStack() as stack:
            link = self._step("reach the server", lambda: stack.enter_context(connection.connect(self.server.conninfo)))
            found = marker.facts(link)
            self._backup(found)
            written = self._step("write a marker", lambda: marker.write(link, found, stamp), _written)
            stack.enter_context(marker.removed_afterwards(self.server, written.oid))
            self.report.phase("lanes", written.segment)
            for step in delivery.watch(link, self.server, written.segment, str(written.lsn), self.patience):
                self._remember(step)
            self._step(
                "archive it",
                lambda: ingest(self.server, _Within(self.report)),
                lambda done: f"{len(done.stored)} archived",
            )
            return self._restore(stack, found, written)

    def _backup(self, found: ServerFacts) -> None:
        """Take a backup where that is asked for, needed, or cheap."""
        usable = repository.catalogue(self.server.layout).usable
        small = found.cluster_size is not None and found.cluster_size <= SMALL
        if self.take_backup is False or (self.take_backup is None and usable and not small):
            if not usable:
                raise Refused("there is no good backup", "--no-backup leaves nothing to restore", "leave it out")
            self._remember(Step("backup", "skip", 0.0, f"the last good one is proven: {usable[0].id}"))
            return
        self._step("backup", self._take_backup, lambda backup: f"{backup}, kept as any other")

    def _take_backup(self) -> str:
        job = launch.launch(self.config, spec_.make(self.config, "backup", self.server.name))
        try:
            self._follow(follow.find(self.config.state_directory, job).directory)
        except KeyboardInterrupt:
            with suppress(CellarmanError):
                launch.cancel(self.config, job)
            raise
        state = follow.find(self.config.state_directory, job)
        if state.status != "done":
            error = state.result.get("error", {})
            raise CellarmanError(
                error.get("what", f"backup job {job} is {state.status}"),
                error.get("why", state.reason),
                error.get("fix", ""),
            )
        return repository.catalogue(self.server.layout).usable[0].id

    def _follow(self, job_directory: str) -> None:
        for event in follow.follow(job_directory):
            if isinstance(event, Progress):
                self.report.progress(event.done_bytes, event.total_bytes, event.files_done, event.files_total)
            elif isinstance(event, Note):
                self.report.note(event.text, event.level)

    def _restore(self, stack: ExitStack, found: ServerFacts, written: Marker) -> bool:
        server = self.server
        root = stack.enter_context(self._sandbox(written.oid))
        now = datetime.now(timezone.utc)
        agreed = self._step(
            "plan the restore",
            lambda: sandbox.plan(server, root, written, found.timeline, now, self.config.alone),
            lambda plan: (
                f"{amounts.size(plan.copy_bytes or 0)} to copy,"
                f" {amounts.counted(plan.wal.count if plan.wal else 0, 'segment')} to replay"
            ),
        )
        assert agreed.info is not None
        self.backup = agreed.info.id
        self._step(
            "restore",
            lambda: sandbox.bring(server, agreed, root, _Within(self.report)),
            lambda _: f"backup {self.backup}",
        )
        verdict = self._step(
            "start it",
            lambda: stack.enter_context(sandbox.started(server, agreed, _Within(self.report))),
            lambda verdict: verdict.summary,
        )
        faults.step("aftermath.started")
        text = self._step("read the marker back", lambda: sandbox.read_back(server, verdict, written.oid), str)
        if text != written.text:
            self.steps[-1] = Step("read the marker back", "fail", 0.0, f"{text!r} is not {written.text!r}")
            return False
        return True

    @contextmanager
    def _sandbox(self, oid: int) -> Iterator[str]:
        """Give a directory for the copy, remembered for the next run until it is removed."""
        root = sandbox.make_root(self.place)
        note = os.path.join(report.directory(self.server.layout), "running.json")
        files.replace(note, json.dumps({"sandbox": root, "marker": oid}).encode())
        try:
            yield root
        finally:
            sandbox.remove(root)
            files.remove(note)

    def _clear_what_was_left(self) -> None:
        """Remove the sandbox and the marker of a run that was killed."""
        note = os.path.join(report.directory(self.server.layout), "running.json")
        try:
            with open(note, encoding="utf-8") as file:
                left = json.load(file)
            root, oid = str(left["sandbox"]), int(left["marker"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            files.remove(note)
            return
        self.report.note(f"removing what an interrupted run left: {root}")
        if os.path.basename(root).startswith("cellarman-aftermath-"):
            sandbox.remove(root)
        with connection.connect(self.server.conninfo) as link:
            marker.remove(link, oid)
        files.remove(note)

    def _step(self, name: str, work: Callable[[], T], say: Callable[[T], str] = lambda _: "") -> T:
        """Do one step and remember how it went; a failure is remembered and raised."""
        self.report.phase(PHASES.get(name, name))
        began = time.monotonic()
        try:
            result = work()
        except CellarmanError as error:
            self._remember(Step(name, "fail", time.monotonic() - began, "\n".join(error.lines(self.config.named))))
            raise
        self._remember(Step(name, "ok", time.monotonic() - began, say(result)))
        return result

    def _remember(self, step: Step) -> None:
        """Keep how a step went for the report, and tell it."""
        self.steps.append(step)
        detail = f": {' '.join(step.detail.split())}" if step.detail else ""
        how = {"ok": f"done in {step.seconds:.1f} s", "fail": "failed", "skip": "left out"}[step.status]
        self.report.note(f"{step.name}, {how}{detail}", "error" if step.status == "fail" else "info")


def refuse(server: Server) -> None:
    """Raise Refused where nothing can be proven: for root, for a server that is not reached, or has no WAL lane."""
    if os.geteuid() == 0:
        raise Refused("the proof starts PostgreSQL", "which refuses root", "run it as the repository's owner")
    if not server.active or not server.conninfo:
        look = Advice(cellarman("config", "check"))
        raise Refused(f"{server.name} cannot be proven", "it is not active, or has no conninfo", look)
    if not (server.archiver or server.streaming_archiver):
        raise Refused(
            f"{server.name} cannot be proven",
            "no WAL lane is on",
            Advice(cellarman("setup", server.name)),
        )


class _Within:
    """Tells what a step says of itself without its phases: those of the proof are its steps."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self.progress = report.progress

    def backup(self, backup_id: str) -> None:
        """Nothing: which backup is restored is in the report."""

    def note(self, text: str, level: Level = "info") -> None:
        """Tell it, a warning as any other line: what it warns of in a restored server does not matter in a sandbox."""
        self._report.note(text, level if level == "error" else "info")

    def phase(self, name: str, detail: str = "") -> None:
        self._report.note(f"{name} {detail}".rstrip())


def work(
    config: Config,
    server: Server,
    report: Reporter,
    *,
    job: str,
    take_backup: bool | None = None,
    sandbox: str = "",
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Prove the loop as a job; the arguments are those of `Loop`. Raises Unproven when the marker did not come back."""
    del job
    done = Loop(config, server, report, take_backup, sandbox, patience).run()
    found = done.to_json()
    failed = [step for step in done.steps if step.status == "fail"]
    if not done.proven:
        step = failed[-1]
        raise Unproven(
            f"the loop of {server.name} is not proven: {step.name} failed",
            step.detail.splitlines()[0] if step.detail else "",
            Advice(cellarman("check", server.name)),
            good=False,
            report=found,
        )
    which = f"what was written at {done.began:%H:%M:%S} UTC came back from backup {done.backup}"
    but = f"; but {', '.join(step.name for step in failed)} failed" if failed else ""
    return {"good": done.good, "report": found, "summary": f"the loop of {server.name} is proven: {which}{but}"}


def _written(written: Marker) -> str:
    return f"restore point {written.text} at {written.lsn}, in {written.segment}"
