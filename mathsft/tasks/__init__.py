"""Tasks: what a row of a data set means, and whether an answer is right."""
