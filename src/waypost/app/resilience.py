"""Fleet and pressure of a gateway, with what an operator sees of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from waypost.app.settings import Settings
from waypost.dispatch.fleet import Fleet, SecretReader
from waypost.dispatch.status import FleetStatus, status_of
from waypost.gateway.limits import Windows
from waypost.gateway.pressure import Pressure
from waypost.gateway.shared_rings import OF_ADDRESSES, OF_KEYS, SharedRings
from waypost.supervisor.inheritance import Inheritance
from waypost.telemetry.events import LimitServerFound, LimitServerLost, emit
from waypost.telemetry.metrics import Page

if TYPE_CHECKING:
    from waypost.stores.valkey_limits import ValkeyLimits


def make_fleet(page: Page, read_secret: SecretReader, dice: Callable[[], float]) -> Fleet:
    return Fleet(
        read_secret,
        dice,
        circuits_opened=page.counter(
            "waypost_circuits_opened", "Times that a circuit has opened.", ("provider", "deployment")
        ),
        credentials_rested=page.counter(
            "waypost_credentials_rested", "Times that a credential was sent to rest.", ("provider", "deployment")
        ),
        bulkheads_refused=page.counter(
            "waypost_bulkhead_refused", "Attempts that got no place at their provider in time.", ("provider",)
        ),
        repetitions_refused=page.counter(
            "waypost_repetitions_refused", "Second attempts that the retry budget did not allow.", ("provider",)
        ),
    )


def watch_fleet(page: Page, fleet: Fleet) -> None:
    """Gauges of what `status_of` tells."""
    loop = asyncio.get_running_loop()

    def status() -> FleetStatus:
        return status_of(fleet, loop.time())

    page.labelled_gauge(
        "waypost_circuits_open",
        "Credentials whose circuit is not closed.",
        ("provider", "deployment"),
        lambda: status().open_circuits(),
    )
    page.labelled_gauge(
        "waypost_credentials_resting",
        "Credentials that rest after a 429.",
        ("provider", "deployment"),
        lambda: status().resting(),
    )
    page.labelled_gauge(
        "waypost_bulkhead_in_flight",
        "Calls of a provider under way.",
        ("provider",),
        lambda: {(each.provider,): each.in_flight for each in status().providers},
    )
    page.labelled_gauge(
        "waypost_bulkhead_waiting",
        "Requests that wait for a place at a provider.",
        ("provider",),
        lambda: {(each.provider,): each.waiting for each in status().providers},
    )


class Limits:
    """What counts the limits of keys, and the failed keys of addresses; `run` it in the background."""

    def __init__(self, of_keys: Windows, of_addresses: Windows, server: ValkeyLimits | None) -> None:
        self.of_keys = of_keys
        self.of_addresses = of_addresses
        self.server = server

    async def run(self) -> None:
        """Keep in touch with the server, until cancelled."""
        if self.server is None:
            await asyncio.Event().wait()
            return
        try:
            await self.server.run()
        finally:
            await self.server.close()

    def degraded(self) -> tuple[str, ...]:
        """What `/readyz` tells of them."""
        return ("limits",) if self.server is not None and not self.server.is_up else ()


def make_limits(
    page: Page, inheritance: Inheritance | None, settings: Settings, *, process: str, nodes: Callable[[], int]
) -> Limits:
    """Alone, with the other gateways of the machine, or with all machines. `nodes` is how many gateways share the
    database."""
    server, workers = None, 1 if inheritance is None else inheritance.workers

    def on_changed(is_up: bool) -> None:
        if is_up:
            emit(LimitServerFound(process=process))
        else:
            emit(LimitServerLost(process=process))

    if settings.valkey_url is not None:
        from waypost.stores.valkey_limits import ValkeyLimits  # noqa: PLC0415  a large import that few need

        server = reached = ValkeyLimits(settings.valkey_url, on_changed=on_changed, answer_s=settings.valkey_wait_s)
        page.gauge("waypost_limit_server_up", "1 while the server that counts for all answers.", lambda: reached.is_up)
    rings: list[SharedRings | None] = [None, None]
    if inheritance is not None and inheritance.limits_fd is not None:
        fd, column = inheritance.limits_fd, inheritance.column
        rings = [SharedRings(fd, columns=workers + 1, column=column, region=each) for each in (OF_KEYS, OF_ADDRESSES)]

    def machines() -> int:
        """That divide a limit while nobody counts for all; gateways that count together are one."""
        return max(1, -(-nodes() // workers)) if rings[0] is not None else max(1, nodes())

    of_keys, of_addresses = (Windows(each, server, machines) for each in rings)
    return Limits(of_keys, of_addresses, server)


def make_pressure(page: Page, dice: Callable[[], float]) -> Pressure:
    pressure = Pressure(dice, page.counter("waypost_shed", "Requests refused to keep up with the others."))
    page.gauge("waypost_shed_share", "Share of new requests that is refused.", lambda: pressure.share)
    page.gauge("waypost_loop_lag_seconds", "How late the loop's timers are.", lambda: pressure.shedding.lag_s)
    page.gauge("waypost_memory_bytes", "Memory in use.", lambda: pressure.memory_bytes)
    return pressure
