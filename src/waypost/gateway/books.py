"""Where an attempt's beginning and end are written down: journal first, then wallet and settler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from waypost.dispatch.ports import Hold as HoldPort
from waypost.dispatch.ports import Plan
from waypost.gateway.journal import Journal, JournalFailed, JournalFull
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import Hold, Wallet
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.money import Nanos
from waypost.ledger.record import ClosedAttempt, Extend, InsufficientFunds, Open
from waypost.telemetry.events import report_bug


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
        self._asking: set[asyncio.Task[None]] = set()
        # What would only be passed on is the journal's own.
        self.when_safe = journal.when_safe
        self.progress = journal.progress

    def opened(self, record: Open) -> None:
        try:
            self._journal.open(record)
        except (JournalFull, JournalFailed) as error:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=5) from error

    def unused(self, plan: Plan) -> None:
        if plan.has_long_hold:
            return  # neither the hold nor the execution is ours to end
        self._wallet.release(cast(Hold, plan.hold))
        self.on_unused(plan)

    def extend(self, attempt_id: bytes, plan: Plan, extra_nanos: Nanos) -> bool:
        hold = cast(Hold, plan.hold)
        more = self._wallet.hold(plan.org_id, extra_nanos, hold.chain)
        return more is not None and self._add(attempt_id, hold, more)

    def ask_to_extend(self, attempt_id: bytes, plan: Plan, extra_nanos: Nanos, then: Callable[[bool], None]) -> None:
        asking = asyncio.get_running_loop().create_task(self._extend_with_grant(attempt_id, plan, extra_nanos, then))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _extend_with_grant(
        self, attempt_id: bytes, plan: Plan, extra_nanos: Nanos, then: Callable[[bool], None]
    ) -> None:
        is_raised = False
        try:
            hold = cast(Hold, plan.hold)
            more = await self._wallet.hold_with_grant(plan.org_id, extra_nanos, hold.chain)
            is_raised = self._add(attempt_id, hold, more)
        except (InsufficientFunds, LedgerUnavailable, LookupError, JournalFull, JournalFailed):
            pass  # NodeSuperseded is a LookupError
        except Exception as bug:  # noqa: BLE001  the edge of a task: the stream must hear, or it would wait for ever
            report_bug(bug)
        then(is_raised)

    def _add(self, attempt_id: bytes, hold: Hold, more: Hold) -> bool:
        """Journal first: what is not written there is not held for this attempt."""
        total_nanos = hold.amount_nanos + more.amount_nanos
        is_one = hold.is_open and hold.lease_id == more.lease_id
        if is_one and self._journal.extend(Extend(attempt_id, total_nanos)):
            hold.absorb(more)
            return True
        self._wallet.release(more)
        return False

    def closed(self, attempt: ClosedAttempt, hold: HoldPort) -> None:
        self._journal.close(attempt.close)
        self._settler.add(attempt)
        if attempt.close.is_final:
            # What was planned with is the wallet's; `cast` would be a call.
            self._wallet.settle(hold, attempt.close.charge_nanos)  # type: ignore[arg-type]
            self.on_final(attempt)


def _ignore(_: object) -> None:
    pass
