"""Widgets take values and emit messages."""
