"""Where an attempt's beginning and end are written down: journal first, then wallet and settler."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from waypost.dispatch.ports import Hold as HoldPort
from waypost.dispatch.ports import Plan
from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import Hold, Wallet
from waypost.kit.errors import ErrorCode, Refusal
from waypost.ledger.record import ClosedAttempt, Open


class GatewayBooks:
    """`dispatch.ports.Books` of a gateway process."""

    def __init__(self, *, journal: Journal, wallet: Wallet, settler: Settler) -> None:
        self.on_final: Callable[[ClosedAttempt], None] = _ignore
        """Called when an execution has ended."""
        self.on_unused: Callable[[Plan], None] = _ignore
        """Called when one has ended before anything was sent."""
        self._journal = journal
        self._wallet = wallet
        self._settler = settler

    def opened(self, record: Open) -> None:
        try:
            self._journal.open(record)
        except (JournalFull, JournalFailed) as error:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=5) from error

    def unused(self, plan: Plan) -> None:
        self._wallet.release(cast(Hold, plan.hold))
        self.on_unused(plan)

    def closed(self, attempt: ClosedAttempt, hold: HoldPort) -> None:
        self._journal.close(attempt.close)
        self._settler.add(attempt)
        if attempt.close.is_final:
            self._wallet.settle(cast(Hold, hold), attempt.close.charge_nanos)
            self.on_final(attempt)


def _ignore(_: object) -> None:
    pass
