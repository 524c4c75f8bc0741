"""Worker processes: what the machine can do, which worker runs where, and how workers are started, called and replaced."""
