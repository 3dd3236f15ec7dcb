"""Fleet and pressure of a gateway, with what an operator sees of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waypost.dispatch.fleet import Fleet, SecretReader
from waypost.dispatch.status import FleetStatus, status_of
from waypost.gateway.pressure import Pressure
from waypost.telemetry.metrics import Page


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


def make_pressure(page: Page, dice: Callable[[], float]) -> Pressure:
    pressure = Pressure(dice, page.counter("waypost_shed", "Requests refused to keep up with the others."))
    page.gauge("waypost_shed_share", "Share of new requests that is refused.", lambda: pressure.shedding.share)
    page.gauge("waypost_loop_lag_seconds", "How late the loop's timers are.", lambda: pressure.shedding.lag_s)
    page.gauge("waypost_memory_bytes", "Memory in use.", lambda: pressure.memory_bytes)
    return pressure
