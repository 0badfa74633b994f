"""identity.json: which PostgreSQL cluster this part of the repository belongs to. Light: json is imported on use."""

from __future__ import annotations

from engine.errors import CellarmanError
from engine.repository.files import at_once, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.repository.layout import Layout


class IdentityError(CellarmanError):
    """identity.json is there and cannot be understood."""


def system_id(layout: Layout) -> int | None:
    """Return the system identifier that this server's repository was made for, or None when it is not known yet.

    Raises IdentityError when the file cannot be understood, CellarmanError when this account may not read it.
    """
    try:
        with open(layout.identity, encoding="utf-8", opener=at_once) as file:
            text = file.read(65536)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        from engine.repository.ownership import forbidden

        raise forbidden(layout.name, layout.identity, error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(layout, str(error)) from error
    return _parse(layout, text)


def major(layout: Layout) -> int | None:
    """Return the major version of PostgreSQL that identity.json states, None when it states none that can be read."""
    try:
        with open(layout.identity, encoding="utf-8", opener=at_once) as file:
            words = file.read(65536).split()
    except (OSError, UnicodeDecodeError):
        return None
    value = words[words.index('"version":') + 1].strip('",') if '"version":' in words[:-1] else ""
    return int(value) if value.isdigit() else None


def _as_barman_writes(text: str) -> int | None:
    """Return the identifier in exactly Barman's layout, which needs no JSON: the WAL client asks for every segment."""
    words = text.split()
    value = words[2] if len(words) == 6 and words[0] == "{" and words[1] == '"systemid":' and words[5] == "}" else ""
    digits = value.strip('",')
    return int(digits) if value == f'"{digits}",' and digits.isdigit() else None


def _parse(layout: Layout, text: str) -> int | None:
    known = _as_barman_writes(text)
    if known is not None:
        return known
    import json

    try:
        value = json.loads(text).get("systemid")
        return None if value is None else int(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable(layout, str(error)) from error


def _unreadable(layout: Layout, why: str) -> IdentityError:
    return IdentityError(
        f"cannot read {layout.identity}",
        why,
        "restore it from a copy, or, once sure which cluster this repository belongs to, remove it: "
        "the next backup or check writes it again",
    )


def write(layout: Layout, system: int, major: int) -> bool:
    """Write identity.json if there is none yet, as Barman lays it out; tell whether it was written."""
    import os

    if os.path.exists(layout.identity):
        return False
    text = f'{{\n    "systemid": "{system}",\n    "version": "{major}"\n}}\n'
    replace(layout.identity, text.encode(), mode=0o644)
    return True
