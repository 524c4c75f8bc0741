"""The search: python run_study.py --trials 20 (--help lists the options)."""

import sys

from mathsft.cli import run_study

if __name__ == "__main__":
    sys.exit(run_study(sys.argv[1:]))
