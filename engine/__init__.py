"""Cellarman's engine: PostgreSQL, backups and recovery, without a screen."""

__version__ = "0.1.0"
