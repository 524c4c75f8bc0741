"""Prompts, training targets, and the reading of responses."""
