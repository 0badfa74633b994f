"""The console: screens and keys over the engine's values. Opens no connection, repository file or subprocess."""
