"""A Barman configuration turned into the text of a `cellarman.toml`, and the list of what could not come along."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields

from engine.config import keys
from engine.config.barmanconf import BarmanConfig
from engine.config.values import Server, nearest
from engine.host.endpoint import Endpoint
from engine.postgres import dsn

_BARMAN_DEFAULTS = {"backup_method": "rsync", "compression": "none", "create_slot": "manual"}
"""What Barman does where nothing is said, and Cellarman does otherwise."""
_DEFAULTS = {field.name: field.default for field in fields(Server)}
_COMPRESSORS = {"pygzip": "gzip", "pigz": "gzip"}
_SILENT = {"configuration_files_directory", "barman_user", "barman_home", "name", "cluster", "model", "log_format"}
_HOOKS = ("_script", "_retry_script")
_CLOUD = ("aws_", "azure_", "gcp_", "snapshot_", "cloud_", "custom_", "warehousepg_")
_YES, _NO = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")
_KNOWN_ELSEWHERE = {
    "archiver_batch_size",
    "autogenerate_manifest",
    "combine_mode",
    "forward_config_path",
    "keepalive_interval",
    "local_staging_path",
    "lock_directory_cleanup",
    "parallel_jobs_start_batch_period",
    "parallel_jobs_start_batch_size",
    "primary_checkpoint_timeout",
    "recovery_staging_path",
    "staging_location",
    "staging_path",
    "streaming_archiver_batch_size",
    "streaming_backup_name",
    "worm_mode",
}
"""Keys of Barman that neither have a name nor a word of advice in `keys`."""


class Import:
    """One Barman configuration on its way."""

    def __init__(self, source: BarmanConfig) -> None:
        self.source = source
        self.lost: list[str] = list(source.notes)
        """What did not come along, or did in another form: a sentence each."""

    def toml(self) -> str:
        """Return the text of a cellarman.toml."""
        lines = [f"# Imported from {', '.join(self.source.files)}", "", "[cellarman]"]
        lines.append(f"barman_home = {_quoted(os.path.abspath(self.source.everywhere['barman_home']))}")
        lines += self._keys("barman", self.source.everywhere, _SILENT)
        for name in self.source.servers:
            lines += ["", *self._server(name)]
        return "\n".join(lines) + "\n"

    def _server(self, name: str) -> Iterator[str]:
        own, inherited = self.source.servers[name], self.source.everywhere
        yield f"[servers.{name if '.' not in name else _quoted(name)}]"
        streams = _is_yes(own.get("streaming_archiver", inherited.get("streaming_archiver", "")))
        for key, value in _BARMAN_DEFAULTS.items():
            if key not in own and key not in inherited and (streams or key != "create_slot"):
                yield f"{key} = {_quoted(value)}"
        for key in sorted(self.source.unset.get(name, set()) & inherited.keys() & keys.SERVER_KEYS.keys()):
            yield from self._default(name, key)
        yield from self._keys(name, own, _SILENT)
        if "primary_ssh_command" in own:
            self.lost.append(f"[{name}] is a passive node, which cellarman does not keep: it is only read here")
            yield "active = false"
        command = own.get("ssh_command", inherited.get("ssh_command", ""))
        if command:
            yield from self._ssh(name, command)

    def _default(self, name: str, key: str) -> Iterator[str]:
        """Give the line that puts a key that is set for all servers back to nothing, for one of them."""
        value = _DEFAULTS.get(key)
        if value is None:
            self.lost.append(f"[{name}] {key} = None: it cannot be unset for one server; move it out of [cellarman]")
        else:
            yield f"{key} = {_quoted(value) if isinstance(value, str) else json.dumps(value)}"

    def _keys(self, section: str, said: Mapping[str, str], skip: set[str]) -> Iterator[str]:
        hooks = [key for key in said if key.endswith(_HOOKS)]
        opaque = [key for key in said if key.startswith(_CLOUD)]
        if hooks:
            self.lost.append(f"[{section}] hooks are not run by cellarman: {', '.join(hooks)}; look what each is for")
        if opaque:
            self.lost.append(f"[{section}] managed by Barman only: {', '.join(opaque)}")
        for key, text in said.items():
            if key in skip or key in hooks or key in opaque or key in ("ssh_command", "primary_ssh_command"):
                continue
            if key == "disabled":
                yield f"active = {'false' if _is_yes(text) else 'true'}"
            elif key in keys.SERVER_KEYS:
                yield from self._one(section, key, text)
            else:
                self.lost.append(self._unknown(section, key))

    def _one(self, section: str, key: str, text: str) -> Iterator[str]:
        """Give the line of a key that both have."""
        if text == "" and key not in ("retention_policy",):
            return
        if key == "compression" and text in _COMPRESSORS:
            self.lost.append(f"[{section}] compression = {text}: written as {_COMPRESSORS[text]}, which reads the same")
            text = _COMPRESSORS[text]
        if "conninfo" in key and dsn.has_password(text):
            self.lost.append(f"[{section}] {key} has a password in it, which came along: move it to ~/.pgpass")
        wanted = ""
        for value in _readings(text):
            try:
                keys.SERVER_KEYS[key](value)
            except ValueError as error:
                wanted = str(error)
                continue
            yield f"{key} = {_quoted(value) if isinstance(value, str) else json.dumps(value)}"
            return
        shown = dsn.redact(text) if "conninfo" in key else text
        self.lost.append(f"[{section}] {key} = {shown}: cellarman takes {wanted}")

    def _unknown(self, section: str, key: str) -> str:
        if key in keys.BARMAN_KEYS:
            why = keys.BARMAN_KEYS[key].removeprefix("remove the line: ")
            return f"[{section}] {key}: {why}"
        if key == "keepalive_interval" and section == "barman":
            return "[barman] keepalive_interval has no effect in Barman either; cellarman keeps its links alive"
        if key in _KNOWN_ELSEWHERE:
            return f"[{section}] {key}: cellarman has nothing like it"
        near = nearest(key, [*keys.SERVER_KEYS, *keys.BARMAN_KEYS, *_KNOWN_ELSEWHERE])
        return f"[{section}] {key} is no key of Barman" + (f"; nearest: {near}" if near else "")

    def _ssh(self, name: str, command: str) -> Iterator[str]:
        """Give the table for an ssh_command: destination, port, key and known hosts; the rest is ssh_config's."""
        try:
            found, rest = _parse_ssh(command)
            Endpoint(found["host"], found.get("user", ""))
        except ValueError as error:
            self.lost.append(f"[{name}] ssh_command = {command}: it cannot be read ({error})")
            return
        if rest:
            self.lost.append(
                f"[{name}] ssh_command: say in ~/.ssh/config, for Host {found['host']}: {shlex.join(rest)}"
            )
        yield ""
        yield f"[servers.{name if '.' not in name else _quoted(name)}.ssh]"
        for key, value in found.items():
            yield f"{key} = {value if key == 'port' else _quoted(value)}"


def _parse_ssh(command: str) -> tuple[dict[str, str], list[str]]:
    """Return what an ssh command line says of its destination, and the options that have no place in a table.

    >>> _parse_ssh("ssh -q -p 2222 -i ~/.ssh/key -o Compression=yes postgres@pg")
    ({'host': 'pg', 'user': 'postgres', 'port': '2222', 'identity_file': '~/.ssh/key'}, ['-o', 'Compression=yes'])
    """
    words = shlex.split(command)
    said: dict[str, str] = {}
    rest: list[str] = []
    queue = iter(words[1:])
    for word in queue:
        letter, value = word[:2], word[2:]
        if letter in ("-p", "-i", "-l", "-o"):
            value = value or next(queue, "")
            key = {"-p": "port", "-i": "identity_file", "-l": "user"}.get(letter) or _option(value)
            if key:
                said[key] = value.partition("=")[2] if letter == "-o" else value
            else:
                rest += [letter, value]
        elif word in ("-q", "-T", "-x", "-a"):
            continue  # how cellarman calls it anyway
        elif word.startswith("-") or "host" in said:
            rest.append(word)
        else:
            user, at, host = word.rpartition("@")
            said |= {"host": host, **({"user": user} if at else {})}
    if not said.get("host"):
        raise ValueError("it names no host")
    if not said.get("port", "22").isdigit():
        raise ValueError(f"not a port: {said['port']}")
    return {key: said[key] for key in ("host", "user", "port", "identity_file", "known_hosts") if key in said}, rest


def _option(text: str) -> str:
    name = text.partition("=")[0].lower()
    return {
        "port": "port", "user": "user", "identityfile": "identity_file", "userknownhostsfile": "known_hosts"
    }.get(name, "")  # fmt: skip


def _is_yes(text: str) -> bool:
    return text.lower() in _YES


def _readings(text: str) -> Iterator[object]:
    """Give what a value may mean in TOML, the most exact first."""
    word = text.lower()
    if word in _YES or word in _NO:
        yield word in _YES
    if text.isdigit():
        yield int(text)
    yield text


def _quoted(text: object) -> str:
    """Return text as a basic string of TOML.

    >>> _quoted('a "b"'), _quoted("tab\\there")
    ('"a \\\\"b\\\\""', '"tab\\\\there"')
    """
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")
