"""Widgets take values and emit messages; they know no engine."""
