"""Executing runs: the one loop, the final run, and what may be deleted."""
