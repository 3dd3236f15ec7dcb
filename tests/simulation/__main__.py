"""The large run of `real`: python -m tests.simulation 50000 [--first 0] [--jobs 2]

A run that is cut (Ctrl-C, SIGTERM) tells from which seed to go on.
"""

from __future__ import annotations

import sys

from tests.simulation.large_run import large_run
from tests.simulation.real import simulate_apart

if __name__ == "__main__":
    sys.exit(not large_run("The product's money, in lockstep with the reference model.", simulate_apart))
