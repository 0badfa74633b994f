"""A restore's plan in a file: saved where it was made, run later or elsewhere by `cellarman restore --plan-file`.

TOML, or JSON where the name ends so; both hold the order, and which backup and timeline it was agreed to mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import tomli

from engine.commands import cellarman
from engine.errors import CellarmanError, NotFound, UsageError
from engine.recovery.plan import Order, Plan
from engine.repository import files

FORMAT = 1
_KEYS = {"destination": str, "backup": str, "timeline": str, "action": str, "start": bool}
_BIGGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """A plan as it was read from a file."""

    order: Order
    planned: Mapping[str, Any]
    """The backup and timeline that it was agreed to mean; empty when whatever is best then is to be taken."""


def save(path: str, plan: Plan, *, now: datetime, by: str = "") -> str:
    """Write a plan to a new file and return its absolute path; raises CellarmanError, and UsageError for a file that is
    there already."""
    target = os.path.abspath(os.path.expanduser(path))
    document = _document(plan)
    as_json = target.endswith(".json")
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n" if as_json else _toml(document, plan, now, by)
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", "a plan is not written over another file", "choose another name")
    try:
        files.replace(target, text.encode())
    except (OSError, UnicodeError) as error:
        raise CellarmanError(f"the plan was not saved to {target}", str(error), "choose another place") from error
    return target


def load(path: str, *, config_file: str = "") -> Saved:
    """Read a plan; raises NotFound when there is none, UsageError for what is not one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_BIGGEST + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no plan file {path}", str(error), "name the file that was saved") from error
    except OSError as error:
        raise CellarmanError(f"the plan file {path} cannot be read", str(error)) from error
    try:
        document = json.loads(data) if data.lstrip()[:1] == b"{" else tomli.loads(data.decode())
        return _read(document, config_file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not a plan of a restore", said, "save one anew in the console, with s") from None


def _document(plan: Plan) -> dict[str, Any]:
    order = plan.order
    arguments = order.to_arguments()
    del arguments["config_file"]
    tables = {"target": arguments.pop("target"), "tablespaces": arguments.pop("tablespaces")}
    planned = {"backup": plan.info.id, "timeline": plan.timeline} if plan.info is not None else {}
    scalars = {key: value for key, value in arguments.items() if value is not None}
    return {"cellarman_plan": FORMAT, "server": order.server, **scalars, **tables, "planned": planned}


def _toml(document: Mapping[str, Any], plan: Plan, now: datetime, by: str) -> str:
    who = f" by {by}" if by else ""
    do = cellarman("restore", "--plan-file", "FILE")
    lines = [
        f"# A restore of {plan.order.server} to {plan.order.target}.",
        f"# Planned at {now.isoformat(' ', 'seconds')}{who}. Look at it again, and do it:",
        f"#   {do.line()} --plan",
        f"#   {do.line()}",
        "# Without the table [planned] whichever backup is best then is taken.",
    ]
    lines = [line if line.isprintable() else _escaped(line) for line in lines]
    tables = [(key, value) for key, value in document.items() if isinstance(value, Mapping)]
    lines += [f"{key} = {_value(value)}" for key, value in document.items() if not isinstance(value, Mapping)]
    for name, table in tables:
        if table:
            lines += ["", f"[{name}]", *(f"{_key(str(key))} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """Return a value as TOML has it: JSON's strings, numbers and booleans are TOML's too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _read(document: Mapping[str, Any], config_file: str) -> Saved:
    if document["cellarman_plan"] != FORMAT:
        raise ValueError(f"its format is {document['cellarman_plan']!r}, this Cellarman reads {FORMAT}")
    for key, kind in _KEYS.items():
        if not isinstance(document[key], kind):
            raise ValueError(f"{key} is {document[key]!r}")
    port = document.get("port")
    if port is not None and not (isinstance(port, int) and 1 <= port <= 65535):
        raise ValueError(f"port is {port!r}")
    if document["action"] not in ("pause", "promote", "shutdown"):
        raise ValueError(f"action is {document['action']!r}")
    if not os.path.isabs(document["destination"]):
        raise ValueError(f"destination is not absolute: {document['destination']!r}")
    spaces = document.get("tablespaces", {})
    if not all(isinstance(place, str) and os.path.isabs(place) for place in spaces.values()):
        raise ValueError(f"tablespaces are {spaces!r}")
    arguments = {**{key: value for key, value in document.items() if key != "server"}, "tablespaces": dict(spaces)}
    order = Order.from_arguments(str(document["server"]), arguments)
    planned = document.get("planned", {})
    return Saved(replace(order, config_file=config_file), dict(planned))
