"""Sends webhooks: takes deliveries that are due, tries them, and records what became of it.

    announced ─▶ due ─▶ taken ─▶ tried ─▶ recorded: delivered | due again, later | dead letter
                  ▲        └ its taker is gone: due again after fifteen seconds

One loop takes and records, in batches; each attempt is a task of its own. Every receiver has a lane with few places and
a breaker (`webhooks.lane`), and what is not known to answer quickly may hold only a part of all places, of which an
organisation may hold as many as it leaves free: so one receiver that is slow, or a thousand, hold up nobody else. What
is sent and not yet recorded when the process dies is sent again, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from waypost.kit.clock import Clock
from waypost.kit.ids import Ids, text
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.announcements import Announcements
from waypost.storage.pool import Pool
from waypost.storage.webhook_deliveries import (
    LEASE_S,
    SWEEP_ROWS,
    Counts,
    Ended,
    Taken,
    announce_repaired,
    count_deliveries,
    expire,
    forget,
    record,
    renew,
    take_due,
    take_test,
)
from waypost.storage.webhook_endpoints import organisation_secret
from waypost.telemetry.events import WebhookEndpointDeactivated, WebhookSecretUnreadable, emit, report_bug
from waypost.telemetry.metrics import Page
from waypost.upstream.guarded_session import Bounds, GuardedSession
from waypost.upstream.webhook_sender import BOUNDS, send
from waypost.webhooks.event import body_of
from waypost.webhooks.lane import Lane
from waypost.webhooks.schedule import Attempt, Dead, Delivered, Reason, Retry, Schedule, next_step, retry_after_s
from waypost.webhooks.sealed import Sealed, Unreadable
from waypost.webhooks.signature import SECRET_BYTES, headers_of, secret_text

IN_FLIGHT_MAX = 768  # attempts at one time: a socket each, and some 30 KiB
UNPROVEN_MAX = 512  # of them to lanes whose last answer was not quick
TAKEN_MAX = 256  # at one time
UNPROVEN_TAKEN_MAX = 64  # of them, of one organisation
_WINDOW = 2000  # deliveries looked through for them
_ROUND_S = 0.01  # between two rounds; what is announced or ends meanwhile shares the next one
_ROUND_S_MAX = 0.1  # as long as the last one took, but no longer: a long queue leaves the database its time
_POLL_S = 0.5  # when an announcement was lost, and for retries
_RETRY_S = 1.0  # without a database
_RENEW_S = LEASE_S / 3
_SWEEP_S = 60.0
_FORGET_EVERY = 60  # sweeps
_IDLE_S = 600.0  # then a lane is forgotten
_STOP_S = 5.0  # for attempts under way, at the end
_OURS_S = 300.0  # until the next try of what failed through our own fault
TESTS_MAX = 16  # at one time
TESTS_OF_ONE_MAX = 4  # organisation


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`kept_days`: how long deliveries that have ended are kept."""

    schedule: Schedule = Schedule()
    kept_days: int = 30
    bounds: Bounds = BOUNDS


class TooManyTests(Exception):
    """As many tests are under way as may be, in all or for this organisation."""


class WebhookWorker:
    """One process's. `pool` is the app's; `chance` gives numbers from 0 to 1."""

    def __init__(
        self,
        pool: Pool,
        announcements: Announcements,
        session: GuardedSession,
        sealed: Sealed,
        *,
        clock: Clock,
        ids: Ids,
        chance: Callable[[], float],
        page: Page,
        settings: WebhookSettings | None = None,
    ) -> None:
        self._pool = pool
        self._announcements = announcements
        self._session = session
        self._sealed = sealed
        self._clock = clock
        self._ids = ids
        self._chance = chance
        self.settings = settings or WebhookSettings()
        self._lanes: dict[bytes, Lane] = {}
        self._sending: dict[asyncio.Task[None], Taken] = {}
        self._ended: list[Ended] = []
        self._wake = asyncio.Event()
        self._unproven: Counter[bytes] = Counter()  # by organisation
        self._tests: Counter[bytes] = Counter()
        self._counts = Counts(0, 0, 0.0, 0, 0)
        self._attempts = page.counter(
            "waypost_webhook_attempts", "Webhook attempts, by what became of the delivery", ("outcome",)
        )
        self._first = page.histogram(
            "waypost_webhook_first_attempt_seconds", "From the change of an execution to the first attempt to tell it"
        )
        page.gauge("waypost_webhooks_in_flight", "Webhook attempts under way", lambda: len(self._sending))
        page.gauge("waypost_webhooks_pending", "Deliveries that have not ended", lambda: self._counts.pending)
        page.gauge("waypost_webhooks_dead_letters", "Deliveries given up, as long as kept", lambda: self._counts.dead)
        page.gauge("waypost_webhooks_overdue_seconds", "Of the delivery due longest", lambda: self._counts.overdue_s)

    async def run(self) -> None:
        """Until cancelled. What is under way then gets a moment to end; what does not is sent again."""
        beside = [asyncio.ensure_future(work) for work in (self._listen(), self._keep(), self._sweep())]
        try:
            await self._rounds()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            if self._sending:
                await asyncio.wait(self._sending, timeout=_STOP_S)
            for task in list(self._sending):
                task.cancel()
            with contextlib.suppress(LedgerUnavailable, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await self._record()
            await self._announcements.close()

    async def test(self, org_id: bytes, endpoint_id: bytes) -> tuple[bytes, Attempt]:
        """Send a test to an endpoint at once, active or not: the delivery's id and how it went.

        Raises LookupError for an unknown endpoint, TooManyTests."""
        if self._tests.total() >= TESTS_MAX or self._tests[org_id] >= TESTS_OF_ONE_MAX:
            raise TooManyTests
        self._tests[org_id] += 1
        try:
            delivery_id = self._ids.new()
            taken = await take_test(self._pool, org_id, endpoint_id, delivery_id=delivery_id, event_id=self._ids.new())
            began_at = self._now()
            attempt = await self._attempt(taken)
            step = Delivered() if attempt.is_success else Dead(Reason.EXHAUSTED)
            ended = Ended(delivery=taken, attempt=attempt, step=step, began_at=began_at, ended_at=self._now())
            await record(self._pool, [ended])
            if attempt.is_success:
                await announce_repaired(self._pool, endpoint_id)
        finally:
            _give_back(self._tests, org_id)
        return delivery_id, attempt

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._record()
                has_more = await self._take()
            except LedgerUnavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            await asyncio.sleep(min(max(_ROUND_S, loop.time() - began), _ROUND_S_MAX))
            if not has_more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await self._wake.wait()
            self._wake.clear()

    async def _take(self) -> bool:
        """Begin what is due and has a place. Whether there may be more."""
        room = min(TAKEN_MAX, IN_FLIGHT_MAX - len(self._sending))
        now = self._clock.monotonic_s()
        free = {lane_id: lane.free(now) for lane_id, lane in self._lanes.items()}
        only = None
        proven = [lane_id for lane_id, places in free.items() if places and self._lanes[lane_id].is_proven]
        left = UNPROVEN_MAX - self._unproven.total()
        if left <= 0:
            only = proven
        if room <= 0 or only == []:
            return False
        taken = await take_due(
            self._pool,
            most=room,
            free={lane_id: places for lane_id, places in free.items() if places},
            busy=[lane_id for lane_id, places in free.items() if not places],
            only=only,
            proven=proven,
            crowded=[org_id for org_id, places in self._unproven.items() if places >= left],
            unproven_of_one=UNPROVEN_TAKEN_MAX,
            window=_WINDOW,
        )
        for each in taken:
            self._begin(each, now)
        return bool(taken)

    def _begin(self, taken: Taken, now: float) -> None:
        lane = self._lanes.get(taken.lane)
        if lane is None:
            lane = self._lanes[taken.lane] = Lane(taken.failures)
        lane.begin(now)
        is_unproven = not lane.is_proven
        org_id = taken.event.org_id
        if is_unproven:
            self._unproven[org_id] += 1
        task = asyncio.ensure_future(self._deliver(taken, lane))
        self._sending[task] = taken

        def ended(_: object) -> None:
            del self._sending[task]
            if is_unproven:
                _give_back(self._unproven, org_id)
            self._wake.set()

        task.add_done_callback(ended)

    async def _deliver(self, taken: Taken, lane: Lane) -> None:
        began_at = self._now()
        attempt: Attempt | None = None
        step: Delivered | Retry | Dead = Retry(began_at + timedelta(seconds=_OURS_S))
        try:
            if taken.url is None:
                step = Dead(Reason.DELETED)
            elif began_at >= taken.expires_at:
                step = Dead(Reason.EXPIRED)
            else:
                attempt = await self._attempt(taken)
                step = self._next_step(taken, attempt)
                if taken.is_first:
                    self._first.observe((began_at - taken.event.happened_at).total_seconds())
        except Unreadable:
            emit(WebhookSecretUnreadable(endpoint_id=_endpoint_text(taken)))
        except LedgerUnavailable:
            return  # it is due again when nobody says otherwise
        except Exception as error:  # noqa: BLE001  the edge of a task: what we cannot send now may be sent later
            report_bug(error)
        finally:
            self._leave(lane, attempt)
        self._ended.append(Ended(delivery=taken, attempt=attempt, step=step, began_at=began_at, ended_at=self._now()))
        self._attempts.add(type(step).__name__.lower())

    def _next_step(self, taken: Taken, attempt: Attempt) -> Delivered | Retry | Dead:
        return next_step(
            self.settings.schedule,
            attempt,
            attempts=taken.retries + 1,
            now=self._now(),
            expires_at=taken.expires_at,
            chance=self._chance(),
        )

    def _leave(self, lane: Lane, attempt: Attempt | None) -> None:
        now = self._clock.monotonic_s()
        if attempt is None:
            lane.let_go(now)
            return
        wait_s = retry_after_s(attempt.retry_after, self._now())
        lane.end(attempt, now=now, retry_after_s=wait_s, chance=self._chance())

    async def _attempt(self, taken: Taken) -> Attempt:
        """Raises Unreadable."""
        owner_id = taken.endpoint_id or taken.event.org_id
        secret = taken.secret
        if secret is None:
            fresh = self._sealed.seal_secret(owner_id, secret_text(os.urandom(SECRET_BYTES)))
            secret, _ = await organisation_secret(self._pool, owner_id, fresh=fresh)
        both = [secret] if taken.previous_secret is None else [secret, taken.previous_secret]
        secrets = [self._sealed.secret(owner_id, each) for each in both]
        body = body_of(taken.event)
        headers = headers_of(
            body,
            message_id=taken.event.message_id,
            timestamp_s=self._clock.unix_ns() // 1_000_000_000,
            secrets=secrets,
            custom=self._sealed.headers(owner_id, taken.headers),
        )
        assert taken.url is not None
        url = self._sealed.url(owner_id, taken.url)
        return await send(self._session, url, headers, body, self.settings.bounds)

    async def _record(self) -> None:
        ended, self._ended = self._ended, []
        if not ended:
            return
        try:
            stopped = await record(self._pool, ended)
        except (LedgerUnavailable, asyncio.CancelledError):
            self._ended = ended + self._ended  # also at the end, which records what is left
            raise
        for endpoint_id, state in stopped.items():
            emit(WebhookEndpointDeactivated(endpoint_id=text("wh", endpoint_id), reason=state.lower()))

    async def _listen(self) -> None:
        while True:
            for lane in await self._announcements.wait(_SWEEP_S):
                if lane:  # somebody says that its receiver is well again
                    self._open(bytes.fromhex(lane))
            self._wake.set()

    def _open(self, lane_id: bytes) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.open()

    async def _keep(self) -> None:
        """Say of what is under way, or still to be recorded, that it has a taker."""
        while True:
            await asyncio.sleep(_RENEW_S)
            held = [each.id for each in self._sending.values()] + [each.delivery.id for each in self._ended]
            with contextlib.suppress(LedgerUnavailable):
                if held:
                    await renew(self._pool, held)

    async def _sweep(self) -> None:
        """Give up what nobody could deliver in time, forget what ended long ago, count what there is."""
        sweeps = 0
        while True:
            try:
                await expire(self._pool)
                while sweeps % _FORGET_EVERY == 0 and (
                    await forget(self._pool, days=self.settings.kept_days) == SWEEP_ROWS
                ):
                    pass
                self._counts = await count_deliveries(self._pool)
            except LedgerUnavailable:
                pass
            except Exception as error:  # noqa: BLE001  the edge of a task: deliveries go on without it
                report_bug(error)
            sweeps += 1
            now = self._clock.monotonic_s()
            for lane_id in [each for each, lane in self._lanes.items() if lane.is_idle(now, _IDLE_S)]:
                del self._lanes[lane_id]
            await asyncio.sleep(_SWEEP_S)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC)


def _give_back(held: Counter[bytes], org_id: bytes) -> None:
    held[org_id] -= 1
    if not held[org_id]:
        del held[org_id]


def _endpoint_text(taken: Taken) -> str:
    return "" if taken.endpoint_id is None else text("wh", taken.endpoint_id)
