"""The minute: what must be done again and again, safe beside Barman's own cron."""

from __future__ import annotations

from engine.config import Config
from engine.event import SILENT, Reporter


def pass_over(config: Config, *, report: Reporter = SILENT) -> list[str]:
    """Do one pass over all active servers and return what failed, a sentence each; one never stops the others."""
    raise NotImplementedError
