"""The entry point of `mathsft` and `python -m mathsft`."""

import sys

from mathsft.interrupts import end_silently


def start() -> int:
    """Run the command that sys.argv names and return its exit code."""
    end_silently()  # for Ctrl-C while modules are imported
    from mathsft.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
