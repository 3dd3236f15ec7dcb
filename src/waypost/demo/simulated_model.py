"""The simulator as the demo's provider. A program of its own: `python -m waypost.demo.simulated_model PORT`."""

from __future__ import annotations

import os
import signal
import sys

from waypost.simulator.server import run
from waypost.supervisor.inheritance import die_with_supervisor

HEALTH_PATH = "/_sim/bill"

if __name__ == "__main__":
    die_with_supervisor(os.environ, signal.SIGKILL)
    run(int(sys.argv[1]))
