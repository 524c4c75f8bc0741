"""One module per command: what it does, from parsed arguments to its last line; each is called as run(arguments)."""
