"""Scores checkpoints: generates responses with vLLM, grades them and publishes them with their counts."""
