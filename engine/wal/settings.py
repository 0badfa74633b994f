"""What the WAL client needs of the configuration, kept in a cache so that no TOML is parsed for every segment.

The cache lies in the account's cache directory and holds no secret. It is used only while every file that it came from,
and every place where one could have appeared, is unchanged (inode, size, mtime, ctime), under the same environment.
Light: the WAL client loads this; the configuration itself only when the cache does not serve.
"""

from __future__ import annotations

import marshal
import os
import sys
import zlib

from engine.repository.layout import Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from engine.config import Server

_FORMAT = 1


class Settings:
    """One server's part of the configuration; `level` None is the codec's default, `lock_timeout` in seconds."""

    __slots__ = ("compression", "layout", "level", "lock_timeout")

    def __init__(self, layout: Layout, compression: str, level: int | None, lock_timeout: int) -> None:
        self.layout = layout
        self.compression = compression
        self.level = level
        self.lock_timeout = lock_timeout


def resolve(server: str, config: str | None) -> Settings:
    """Return the settings of a server; `config` names the file to read alone. Raises ConfigError and NotFound."""
    key = _key(config)
    cache = _cache_path(key)
    known = _cached(cache, key)
    if server in known:
        return _settings(known[server])
    return _settings(_load(server, config, cache, key))


def _settings(row: tuple[Any, ...]) -> Settings:
    paths, compression, level, lock_timeout = row
    name, home, base, wals, incoming, streaming, errors, xlogdb, lock_directory = paths
    layout = Layout(
        name,
        home,
        base=base,
        wals=wals,
        incoming=incoming,
        streaming=streaming,
        errors=errors,
        xlogdb_directory=xlogdb,
        locks=lock_directory,
    )
    return Settings(layout, compression, level, lock_timeout)


def _row(server: Server) -> tuple[Any, ...]:
    at = server.layout
    paths = (at.name, at.home, at.base, at.wals, at.incoming, at.streaming, at.errors, at.xlogdb_directory, at.locks)
    return paths, str(server.compression), server.compression_level, server.lock_timeout


def _load(server: str, config: str | None, cache: str, key: tuple[str, ...]) -> tuple[Any, ...]:
    """Read the configuration itself, and remember it if every place can be watched."""
    from engine.config import load, places

    read = places.files(config, os.environ)
    named = config or os.environ.get("CELLARMAN_CONFIG")
    usual = [] if named else [places.SYSTEM_FILE, places.SYSTEM_DIRECTORY, places.own_file(os.environ)]
    stamps = [(path, _stamp(path)) for path in [*read, *usual]]  # before reading: a later change is then noticed
    loaded = load(config)
    wanted = loaded.server(server)
    if cache and tuple(read) == tuple(loaded.files):
        rows = {name: _row(one) for name, one in loaded.servers.items()}
        _remember(cache, marshal.dumps((_FORMAT, key, stamps, rows)))
    return _row(wanted)


def _key(config: str | None) -> tuple[str, ...]:
    """Return everything outside the files that the outcome depends on."""
    environ = os.environ
    said = sorted(f"{name}={value}" for name, value in environ.items() if name.startswith("CELLARMAN_"))
    homes = [environ.get("HOME", ""), environ.get("XDG_CONFIG_HOME", "")]
    named = os.path.abspath(config) if config and not config.startswith("~") else config or ""
    return (named, os.getcwd() if "CELLARMAN_CONFIG" in environ else "", *homes, *said)


def _cache_path(key: tuple[str, ...]) -> str:
    """Return where the cache for this key lies, "" when the account has no place for one."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return ""
        base = os.path.join(home, ".cache")
    number = zlib.crc32("\0".join(key).encode("utf-8", "surrogateescape"))
    return os.path.join(base, "cellarman", f"wal-{number:08x}-{sys.hexversion:x}")


def _cached(path: str, key: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Return the remembered servers; none when the cache is absent, another's, stale or damaged."""
    if not path:
        return {}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return {}
    try:
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            return {}
        written, said, stamps, rows = marshal.loads(os.read(descriptor, 1 << 20))
    except (OSError, ValueError, EOFError, TypeError):
        return {}
    finally:
        os.close(descriptor)
    if written != _FORMAT or said != key or any(_stamp(place) != stamp for place, stamp in stamps):
        return {}
    servers: dict[str, tuple[Any, ...]] = rows
    return servers


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    """Return what changes whenever a file or directory does; None when it is not there."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _remember(path: str, data: bytes) -> None:
    """Write the cache; when that cannot be done the next call reads the configuration again."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError:
        return
