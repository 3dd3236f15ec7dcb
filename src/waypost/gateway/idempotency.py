"""`Idempotency-Key` on a call that spends: the same call again is told of the first, and never spends twice.

    claim  →  the key is ours: go on        (one insert into the database; calls without the header have none)
              under way                     409 CONFLICT, Retry-After
              ended and charged             409 CONFLICT with execution, usage and cost; no answer is kept to replay
              another body                  422 IDEMPOTENCY_MISMATCH

A call that ends uncharged gives its key back: the retry it exists for then runs.
"""

from __future__ import annotations

import asyncio

from waypost.gateway.ports import Claims, LedgerUnavailable
from waypost.kit import ids
from waypost.kit.crypto import HmacSha256
from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.kit.money import format_usd
from waypost.ledger.claim import Claim, Claimed, Earlier
from waypost.telemetry.events import report_bug

HEADER = b"idempotency-key"
KEY_CHARS_MAX = 255
IN_FLIGHT_RETRY_S = 1
# Between attempts to give back what could not be given back. More than a statement may take in the database: a claim
# that ends there without us is written by then.
RETRY_S = 6.0
WAITING_MAX = 10_000  # keys to be given back when the database answers, some 2 MB; the oldest beyond that wait a day


class AlreadyDone(Refusal):
    """409: the call has been made under this key; `headers` name its execution."""

    def __init__(self, earlier: Earlier) -> None:
        assert earlier.charge_nanos is not None
        shown = ids.text("exec", earlier.execution_id)
        super().__init__(
            ErrorCode.CONFLICT,
            f"This idempotency key belongs to a call that has ended: execution {shown}, {earlier.input_tokens} input "
            f"tokens, {earlier.output_tokens} output tokens, cost {format_usd(earlier.charge_nanos)} USD. Its answer "
            "is not kept: use another key to ask again.",
        )
        self.headers = b"x-execution-id: %b\r\n" % shown.encode()


class Idempotency:
    """Claims of this process."""

    def __init__(
        self,
        claims: Claims,
        *,
        secret: bytes,
        node_id: bytes,
        node_epoch: int,
        retry_s: float = RETRY_S,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._claims = claims
        self._digest = HmacSha256(secret).digest
        self._node_id = node_id
        self._node_epoch = node_epoch
        self._held: dict[bytes, bytes] = {}  # organisation by execution
        self.waiting: dict[bytes, bytes] = {}  # the same of those to be given back, the oldest first
        self._retry_s = retry_s
        self._waiting_max = waiting_max
        self._retrying: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def claim_of(
        self, headers: dict[bytes, bytes], *, org_id: bytes, endpoint: str, body: bytes, execution_id: bytes
    ) -> Claim | None:
        """What the request wants to claim; None without the header. Raises Refusal 400."""
        key = headers.get(HEADER)
        if key is None:
            return None
        if not 1 <= len(key) <= KEY_CHARS_MAX:
            raise invalid(None, f"'Idempotency-Key' has 1 to {KEY_CHARS_MAX} characters.")
        fingerprint = self._digest(endpoint.encode() + b"\0" + body)
        return Claim(org_id, endpoint, self._digest(b"key\0" + key), fingerprint, execution_id)

    async def take(self, claim: Claim) -> None:
        """Raises Refusal when the key is another call's, or, with the database away, may be."""
        # Before it is asked for: it may become ours and nobody be there to hear of it.
        self._held[claim.execution_id] = claim.org_id
        try:
            outcome = await self._claims.claim(claim, node_id=self._node_id, node_epoch=self._node_epoch)
        except LedgerUnavailable:
            del self._held[claim.execution_id]
            self._give_back_later(claim.org_id, claim.execution_id)
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None
        if isinstance(outcome, Earlier):
            del self._held[claim.execution_id]
        match outcome:
            case Claimed():
                pass
            case Earlier(is_same=False):
                raise Refusal(ErrorCode.IDEMPOTENCY_MISMATCH)
            case Earlier(charge_nanos=None):
                raise Refusal(
                    ErrorCode.CONFLICT,
                    "A call with this idempotency key is under way. Wait for its end, or ask again later.",
                    retry_after_s=IN_FLIGHT_RETRY_S,
                )
            case Earlier():
                raise AlreadyDone(outcome)

    def ended(self, execution_id: bytes, charge_nanos: int) -> None:
        """Its execution is over, or never began: without a charge the key is free again."""
        org_id = self._held.pop(execution_id, None)
        if org_id is None or charge_nanos:
            return
        forgetting = asyncio.get_running_loop().create_task(self._forget(org_id, execution_id))
        self._tasks.add(forgetting)
        forgetting.add_done_callback(self._tasks.discard)

    async def _forget(self, org_id: bytes, execution_id: bytes) -> None:
        try:
            await self._claims.forget(org_id=org_id, execution_id=execution_id)
        except LedgerUnavailable:
            self._give_back_later(org_id, execution_id)
        except Exception as bug:  # noqa: BLE001  the edge of a task
            report_bug(bug)

    def _give_back_later(self, org_id: bytes, execution_id: bytes) -> None:
        if len(self.waiting) >= self._waiting_max:
            del self.waiting[next(iter(self.waiting))]
        self.waiting[execution_id] = org_id
        if self._retrying is None:
            self._retrying = asyncio.get_running_loop().create_task(self._give_back())

    async def _give_back(self) -> None:
        """Until nothing waits. One at a time, the newest last: what comes in meanwhile has its time as well."""
        while self.waiting:
            await asyncio.sleep(self._retry_s)
            due, self.waiting = self.waiting, {}
            for execution_id, org_id in due.items():
                await self._forget(org_id, execution_id)
        self._retrying = None

    async def keep(self, *, every_s: float = 3600.0) -> None:
        """Forget what is a day old, until cancelled."""
        while True:
            try:
                await self._claims.sweep()
            except LedgerUnavailable:
                pass  # the next time
            except Exception as bug:  # noqa: BLE001  the edge of a task
                report_bug(bug)
            await asyncio.sleep(every_s)

    async def forget_interrupted(self) -> None:
        """After everything that earlier runs left is booked: what they promised and never began is free again. Raises
        LedgerUnavailable."""
        await self._claims.forget_interrupted(node_id=self._node_id, node_epoch=self._node_epoch)
