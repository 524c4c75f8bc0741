"""The other commands: python -m mathsft config | report."""

import sys

from mathsft.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
