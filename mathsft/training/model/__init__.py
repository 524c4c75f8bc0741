"""Replaced parts of a loaded model: its attention, its loss, and the registry of patches."""
