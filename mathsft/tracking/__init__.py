"""Observers of the store that show progress on the terminal and in W&B; the driver never waits for them."""
