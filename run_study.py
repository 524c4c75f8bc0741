"""Run the search: python run_study.py --trials 20 (--help lists the options)."""

import sys

from mathsft.interrupts import end_silently

if __name__ == "__main__":
    end_silently()  # Ctrl-C while modules are imported
    from mathsft.cli import main

    sys.exit(main(["study", *sys.argv[1:]]))
