"""What a study costs in time, memory and disk: measured, recorded and predicted."""
