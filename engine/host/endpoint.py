"""A host that is reached by SSH, as a value. Light: the configuration and the WAL client load it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.errors import UsageError

_HOST = re.compile(r"(?:[\w.:+%][\w.:+%-]*)?")
"""No leading dash, which ssh would take for an option; nothing that a shell or a URL reads as its own."""
_USER = re.compile(r"(?:[\w.+][\w.+$@\\-]*)?")
_TEXT = re.compile(r"(?:(?P<user>.*)@)?(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host that is reached by SSH, as this configuration names it; ValueError for a name that ssh would misread."""

    host: str
    """A name, an address or an alias of ~/.ssh/config; empty in a table that gives only the other values."""
    user: str = ""
    """Empty: what ~/.ssh/config says, or this account's name."""
    port: int | None = None
    """None: what ~/.ssh/config says, or 22."""
    identity_file: str = ""
    known_hosts: str = ""
    connect_timeout: int = 10
    """Seconds."""
    control: str = ""
    """The socket of a connection that is there already (`engine.host.shared`); "": each command makes its own."""

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"not a host's name: {self.host!r}")
        if not _USER.fullmatch(self.user):
            raise ValueError(f"not an account's name: {self.user!r}")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.port is not None else self.host
        return (f"{self.user}@" if self.user else "") + host + ("" if self.port is None else f":{self.port}")

    @classmethod
    def parse(cls, text: str, like: Endpoint | None = None) -> Endpoint:
        """Return "[user@]host[:port]" (an IPv6 address in brackets) as an endpoint; what it does not say is `like`'s.

        Raises UsageError. A key and a list of known hosts hold for other hosts too; a port only for the same one.

        >>> str(Endpoint.parse("postgres@[::1]:2222")), Endpoint.parse("db", Endpoint("pg", "postgres", 2222)).user
        ('postgres@[::1]:2222', 'postgres')
        """
        found = _TEXT.fullmatch(text)
        host = (found["bracketed"] or found["host"] or "") if found else ""
        base = like or cls("")
        if found is None or not host or (found["port"] and not 1 <= int(found["port"]) <= 65535):
            raise UsageError(f"not a host: {text!r}", "", "write HOST, USER@HOST or USER@HOST:PORT; IPv6 as [::1]")
        port = int(found["port"]) if found["port"] else base.port if host == base.host else None
        try:
            return replace(base, host=host, user=found["user"] or base.user, port=port)
        except ValueError as error:
            raise UsageError(f"not a host: {text!r}", str(error), "write HOST, USER@HOST or USER@HOST:PORT") from error
