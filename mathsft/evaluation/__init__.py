"""Scores checkpoints: generates responses with vLLM, grades them and writes them to a file with their counts."""
