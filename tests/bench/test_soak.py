"""What a soak makes of its looks at the gateway."""

from __future__ import annotations

import os

from bench.soak import Look, look_at, slope, verdict

MIB = 1 << 20


def looks(*, grows_by: int = 0, descriptors: int = 0) -> list[Look]:
    """Eleven laps of 50,000 requests; memory goes up and down by half a MiB besides."""
    return [
        Look(50_000 * lap, 90 * MIB + grows_by * lap // 2 + (lap % 2) * MIB // 2, 40 + descriptors * lap, 3)
        for lap in range(11)
    ]


def test_what_grows_with_requests_is_told_in_bytes_for_a_hundred_thousand() -> None:
    exact = [Look(requests, 5 * requests, 0, 0) for requests in (100_000, 250_000, 300_000)]
    assert round(slope(exact)) == 500_000
    assert slope(exact[:1]) == 0


def test_noise_and_what_grew_at_the_beginning_pile_nothing_up() -> None:
    first = Look(10_000, 20 * MIB, 30, 2)
    assert verdict([first, *looks()]) == []
    assert verdict(looks(grows_by=MIB // 2)) == []


def test_what_grows_on_is_told() -> None:
    assert verdict(looks(grows_by=2 * MIB)) == ["memory grows by 2.00 MiB in 100,000 requests"]
    assert verdict(looks(descriptors=4)) == ["up to 80 descriptors, and up to 60 in the first half"]
    assert verdict(looks()[:4]) == ["4 laps are too few to tell"]


def test_a_process_is_looked_at() -> None:
    found = look_at(os.getpid(), 7)
    assert found.requests == 7
    assert found.resident_bytes > 1_000_000
    assert found.descriptors >= 3
    assert found.threads >= 1
