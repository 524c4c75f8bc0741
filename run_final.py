"""The full run: python run_final.py --from-best (--help lists the options)."""

import sys

from mathsft.cli import run_final

if __name__ == "__main__":
    sys.exit(run_final(sys.argv[1:]))
