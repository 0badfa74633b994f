"""The Barman catalogue on disk."""
