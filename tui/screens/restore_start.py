"""Starting a restore: the typed yes, the plan reckoned once more, the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual import work

from engine import permission
from engine.errors import CellarmanError
from engine.recovery.plan import Plan
from tui import moments
from tui.format import Line, plain
from tui.screens.restore_parts import what_is_made
from tui.screens.restore_steps import Steps


class Start(Steps):
    """The restore about to be started. A plan that is not the one that was shown is shown again instead."""

    def _forbidden(self) -> str:
        replaces = self._plan is not None and self._plan.order.delta
        action: permission.Action = "replace" if replaces else "restore"
        protected = self._server.protected
        refused = permission.refusal(action, self._server_name, read_only=self._no_writing, protected=protected)
        return f"{refused.what} ({refused.why}); the plan can be saved." if refused else ""

    def _ask(self) -> None:
        from tui.screens.typed import Typed

        plan = self._plan
        if plan is None:
            return
        says: list[Line] = [
            ((f"Restore {plain(self._server_name)} to {moments.target_words(plan.order.target)}?", "strong"),),
            (),
            what_is_made(plan),
            ((f"{plain(self._server_name)} itself is not touched.", "text"),),
        ]
        self.app.push_screen(Typed(says, self._server_name, "the server's name", "restore", lambda: self._start(plan)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _start(self, shown: Plan) -> None:
        """Reckon the plan once more, and start it when it is still what was shown."""
        from engine.job import launch, spec
        from engine.recovery.difference import differences

        self._starting = True
        config, app = self.app.config, self.app
        try:
            plan = self._reckoned(shown.order)
            changed = differences(shown, plan)
            if changed or plan.info is None:
                app.call_from_thread(self._has_changed, plan, changed)
                return
            agreed = {"backup": plan.info.id, "timeline": plan.timeline}
            arguments: dict[str, Any] = {**plan.order.to_arguments(), "planned": agreed}
            order = spec.make(config, "restore", self._server_name, **arguments)
            job = launch.launch(
                config,
                order,
                read_only=app.read_only,
                via="console",
                say=lambda text: app.call_from_thread(app.say, text),
            )
        except CellarmanError as error:
            app.call_from_thread(app.problem, error)
            return
        finally:
            self._starting = False
        app.lookout.look_at(job)
        app.call_from_thread(self._started, job, plan.order.command().line(config.named))

    def _has_changed(self, plan: Plan, changed: Sequence[str]) -> None:
        self._asked, self._plan, self._error = plan.order, plan, None
        self.repaint()
        self.app.problem(
            CellarmanError(
                "the plan has changed since it was shown, and nothing was started",
                "\n".join(changed),
                "look at the new plan, and confirm it if it is right",
            )
        )

    def _started(self, job: str, line: str) -> None:
        self.app.note_ran(line)
        if self.is_current:
            self.app.pop_screen()
        self.app.open_job(job)
