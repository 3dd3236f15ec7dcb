"""Limits that several processes of one machine count together: as one process would, at every moment, and exactly."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing.connection import Connection

import pytest

from tests.policy.limiter_model import Model
from waypost.gateway.allowance import Allowances
from waypost.gateway.limits import LimitExceeded, Windows
from waypost.gateway.shared_rings import SLOTS, SharedRings, SharedWindow, rings_bytes
from waypost.policy.rate_limit import BUCKET_S
from waypost.tenancy.api_key import ApiKey, Scope

TRACES = int(os.environ.get("TRACES", "10000")) // 10
STEPS_S = (0.0, 0.0, 0.001, 0.5, 5.999, 6.0, 6.001, 30.0, 53.999, 59.9, 60.0, 66.0, 66.001, 400.0)


def memory(columns: int, *, regions: int = 1) -> int:
    """A file descriptor, for as long as the test run."""
    with tempfile.TemporaryFile() as file:
        file.truncate(rings_bytes(columns, regions=regions))
        return os.dup(file.fileno())


def workers(columns: int) -> list[SharedRings]:
    fd = memory(columns)
    return [SharedRings(fd, columns=columns, column=column) for column in range(columns)]


def windows(columns: int, per_minute: int, now_s: float = 0.0, digest: bytes = b"k" * 16) -> list[SharedWindow]:
    made = [rings.window(digest, per_minute, now_s) for rings in workers(columns)]
    return [window for window in made if window is not None]


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_random_traces_over_several_processes_go_as_one_processs_model_goes(columns: int) -> None:
    dice, rings = random.Random(columns), workers(columns)
    refused = corrected = 0
    for trace in range(TRACES):
        limit, now_s = dice.choice((1, 3, 10, 60)), dice.random() * 1e5
        digest = trace.to_bytes(16, "little")
        shared = [window for each in rings if (window := each.window(digest, limit, now_s)) is not None]
        model, open_calls = Model(limit), list[tuple[SharedWindow, float, int]]()
        for _ in range(dice.randrange(5, 30)):
            now_s += dice.choice(STEPS_S)
            if open_calls and dice.random() < 0.3:
                window, taken_at_s, reserved = open_calls.pop(dice.randrange(len(open_calls)))
                # Less only: a process gives back what it took itself, and the model knows of no processes.
                delta = -dice.randrange(reserved + 1)
                window.correct(now_s, delta, taken_at_s=taken_at_s)
                model.correct(now_s, delta, taken_at_s)
                corrected += 1
                continue
            amount, window = dice.randrange(1, limit + 2), dice.choice(shared)
            decision, is_expected = window.take(now_s, amount), model.take(now_s, amount)
            assert decision.is_allowed == is_expected
            assert decision.remaining == model.remaining(now_s)
            refused += not is_expected
            if is_expected:
                open_calls.append((window, now_s, amount))
    assert refused > TRACES / 2
    assert corrected > TRACES / 2


def test_a_process_whose_clock_is_read_a_moment_later_is_believed() -> None:
    early, late = windows(2, 10)
    assert late.take(66.0, 10).is_allowed
    assert not early.take(65.99).is_allowed


def test_what_is_refused_fits_after_the_time_told() -> None:
    first, second = windows(2, 10)
    assert first.take(1.0, 6).is_allowed
    assert second.take(13.0, 4).is_allowed
    refused = second.take(14.0, 5)
    assert (refused.is_allowed, refused.remaining, refused.reset_s) == (False, 0, 52.0)
    assert not first.take(14.0 + 52.0 - 0.01, 5).is_allowed
    assert first.take(14.0 + 52.0, 5).is_allowed


def test_more_than_was_reserved_counts_from_then_on_for_all() -> None:
    first, second = windows(2, 100)
    assert first.take(0, 50).is_allowed
    first.correct(60, 150, taken_at_s=0)
    assert (second.take(66, 1).is_allowed, second.take(126, 1).is_allowed) == (False, True)


def test_a_slot_that_nobody_counts_in_is_given_to_another_window_and_found_again() -> None:
    (rings,) = workers(1)
    # All of these begin their search at the same slot, and there are more of them than places to look at.
    digests = [SLOTS.to_bytes(8, "little") + n.to_bytes(8, "little") for n in range(40)]
    held = [rings.window(digest, 1, 0.0) for digest in digests[:32]]
    for window in held:
        assert window is not None
        assert window.take(0.0).is_allowed
    assert rings.window(digests[32], 1, 0.0) is None
    moved = rings.window(digests[32], 1, 66.0)
    assert moved is not None
    assert moved.take(66.0).is_allowed
    assert held[0] is not None
    assert held[0].take(67.0).is_allowed  # elsewhere
    assert not moved.take(67.0).is_allowed
    assert not held[0].take(67.0).is_allowed


def test_regions_do_not_know_each_other() -> None:
    fd = memory(2, regions=2)
    of_keys, of_sites = (SharedRings(fd, columns=2, column=0, region=region) for region in range(2))
    made = [rings.window(b"d" * 16, 1, 0.0) for rings in (of_keys, of_sites)]
    assert all(window is not None and window.take(0.0).is_allowed for window in made)


def _hammer(fd: int, columns: int, column: int, limit: int, pipe: Connection) -> None:
    """Take as fast as possible for a while, and say when what was let through."""
    rings = SharedRings(fd, columns=columns, column=column)
    window = rings.window(b"k" * 16, limit, time.monotonic())
    assert window is not None
    pipe.send("ready")
    pipe.recv()
    allowed = 0
    ends_s = time.monotonic() + 0.5
    while time.monotonic() < ends_s:
        allowed += window.take(time.monotonic()).is_allowed
    pipe.send(allowed)


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_processes_that_take_at_the_same_moment_never_get_more_than_the_limit(limit: int) -> None:
    columns, fd = 4, memory(4)
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for column in range(columns):
        ours, theirs = context.Pipe()
        process = context.Process(target=_hammer, args=(fd, columns, column, limit, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    assert [pipe.recv() for pipe in pipes] == ["ready"] * columns
    for pipe in pipes:
        pipe.send("go")
    allowed = sum(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    assert 0.9 * limit <= allowed <= limit


def key(**limits: int) -> ApiKey:
    return ApiKey(id=b"k" * 16, org_id=b"o" * 16, digest=b"", scope=Scope.FULL, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "processes"), [(10, 1), (10, 4), (4, 4), (1, 4), (3, 8)])
def test_workers_together_allow_the_limit_and_any_of_them_alone_all_of_it(limit: int, processes: int) -> None:
    for order in (range(processes), [0] * processes):
        limits = [Allowances(Windows(rings)) for rings in workers(processes)]
        allowed = 0
        for number in itertools.chain.from_iterable(itertools.repeat(tuple(order), limit + 2)):
            try:
                limits[number].of(key(requests_per_minute=limit), 1.0).take(now_s=1.0, now_unix_s=0.0, tokens=0)
                allowed += 1
            except LimitExceeded:
                pass
        assert allowed == limit


def test_a_changed_limit_holds_at_once_and_keeps_what_was_counted() -> None:
    limits = Allowances(Windows(workers(2)[0]))
    for _ in range(3):
        limits.of(key(requests_per_minute=3), 0.0).take(now_s=0.0, now_unix_s=0.0, tokens=0)
    told = limits.of(key(requests_per_minute=5), 0.0).take(now_s=0.0, now_unix_s=0.0, tokens=0)
    assert b"x-ratelimit-limit: 5\r\nx-ratelimit-remaining: 1\r\n" in told
    with pytest.raises(LimitExceeded):
        limits.of(key(requests_per_minute=2), 0.0).take(now_s=0.0, now_unix_s=0.0, tokens=0)


def test_a_worker_that_starts_again_finds_what_it_had_counted() -> None:
    fd = memory(2)
    for _ in range(2):
        window = SharedRings(fd, columns=2, column=1).window(b"k" * 16, 2, BUCKET_S)
        assert window is not None
        assert window.take(BUCKET_S).is_allowed
    again = SharedRings(fd, columns=2, column=1).window(b"k" * 16, 2, BUCKET_S)
    assert again is not None
    assert not again.take(BUCKET_S).is_allowed
