"""The response format and its verdicts: what a model is taught to write, and whether what it wrote is right."""
