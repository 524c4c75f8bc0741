"""The other commands: python -m mathsft config | report | show | replay | clean | grade."""

import sys

from mathsft.interrupts import end_silently

if __name__ == "__main__":
    end_silently()  # Ctrl-C while modules are imported
    from mathsft.cli import main

    sys.exit(main(sys.argv[1:]))
