"""Faster layers for training on a CPU, and the memory of the process."""
