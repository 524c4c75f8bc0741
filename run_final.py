"""Run the full training: python run_final.py --from-best (--help lists the options)."""

import sys

from mathsft.interrupts import end_silently

if __name__ == "__main__":
    end_silently()  # Ctrl-C while modules are imported
    from mathsft.cli import main

    sys.exit(main(["final", *sys.argv[1:]]))
