"""Executes runs: the run loop, the final run, the confirm stage, and the deletion of checkpoints."""
