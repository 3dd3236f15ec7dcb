"""What one attempt comes to."""

from __future__ import annotations

import msgspec

from waypost.kit.money import Nanos
from waypost.wire.canonical import Usage


class Bill(msgspec.Struct, frozen=True, gc=False):
    """Amounts of one attempt, nano-USD. `overrun_nanos` is what the usage costs above the hold: the house bears it."""

    usage: Usage
    charge_nanos: Nanos
    cogs_nanos: Nanos
    overrun_nanos: Nanos = 0


FREE = Bill(usage=Usage(), charge_nanos=0, cogs_nanos=0)
