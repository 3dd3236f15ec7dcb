"""Providers to try the product on, and to test it against: several personalities of each provider kind, with realistic
streams, faults on demand, and a bill of their own. Nothing here runs in production.

Directives that steer an answer: `directive.py`. Faults: `fault.KINDS`. Endpoints beside the providers': `control.py`.
"""

from waypost.simulator.fault import BadFault
from waypost.simulator.record import Record
from waypost.simulator.server import DEFAULT_PORT, Simulator, run, serve

__all__ = ["DEFAULT_PORT", "BadFault", "Record", "Simulator", "run", "serve"]
