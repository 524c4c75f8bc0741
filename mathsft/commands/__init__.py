"""One module per command; its `run(arguments)` does everything from the parsed arguments to the last printed line."""
