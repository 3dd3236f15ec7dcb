"""Put before everything else on the path of `waypost up`, this makes its gateways keep no books: the other side of the
comparison in `bench.money`. Nothing in the product can do that.

Holds, records and settlements are left out; all the rest is as ever, metadata rows included in what is left out.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

if "gateway" in sys.orig_argv:
    from waypost.gateway.hold import Hold
    from waypost.ledger.lease import Lease

    wiring: Any = import_module("waypost.app.wiring")

    LEASE = Lease(lease_id=bytes(16), org_id=bytes(16))
    LEASE.granted_nanos = 1 << 62

    class _FreeBooks(wiring.GatewayBooks):  # type: ignore[misc]  # known at run time only
        def opened(self, record: Any) -> None:  # so the journal knows no attempt, and notes no progress of one
            pass

        def unused(self, plan: Any) -> None:
            self.on_unused(plan)

        def closed(self, attempt: Any, hold: Any) -> None:  # noqa: ARG002
            if attempt.close.is_final:
                self.on_final(attempt)

    class _FreeWallet(wiring.Wallet):  # type: ignore[misc]  # as above
        def hold(self, org_id: bytes, amount_nanos: int, chain: Any = None) -> Hold:  # noqa: ARG002
            return Hold(LEASE, amount_nanos)

    wiring.GatewayBooks = _FreeBooks
    wiring.Wallet = _FreeWallet
