"""Where work is done: one process or more per device, how they are started, asked and replaced, and who works where."""
