"""`cellarman.toml` as frozen values, each knowing the file and line that it came from."""

from engine.config.load import InvalidConfig, describe, load
from engine.config.values import DEFAULT, BackupMethod, Compressor, Config, Problem, Server, Source

__all__ = [
    "DEFAULT",
    "BackupMethod",
    "Compressor",
    "Config",
    "InvalidConfig",
    "Problem",
    "Server",
    "Source",
    "describe",
    "load",
]
