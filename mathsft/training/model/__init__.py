"""What this trainer changes in a loaded model: attention, loss and the registry of patches."""
