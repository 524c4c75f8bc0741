"""The embedded quickstart: generated problems and a base model of 0.9 million parameters."""
