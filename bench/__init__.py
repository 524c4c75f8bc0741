"""Side-by-side benchmarks with peers: `python -m bench.NAME` prints a table and, last, one JSON line of ratios."""
