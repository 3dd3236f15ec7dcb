"""Places at a provider, and the queue for them."""

from __future__ import annotations

import random
from collections.abc import Callable

from waypost.policy.bulkhead import Places
from waypost.policy.catalogue import Bulkhead


def nobody() -> None:
    """A waiter; it is told apart by being another object."""


def somebody() -> Callable[[], None]:
    return lambda: None


def test_places_are_taken_up_to_the_limit_then_waited_for_up_to_another() -> None:
    places = Places(Bulkhead(in_flight=2, queue=1))
    assert [places.take() for _ in range(3)] == [True, True, False]
    assert places.wait(nobody)
    assert not places.wait(somebody())


def test_a_place_goes_to_who_waited_longest_and_not_to_who_comes_now() -> None:
    places = Places(Bulkhead(in_flight=1, queue=2))
    first, second = somebody(), somebody()
    assert places.take()
    assert places.wait(first)
    assert places.wait(second)
    assert places.release() is first
    assert not places.take()
    assert places.leave(second)
    assert places.release() is None
    assert places.take()


def test_who_has_been_given_a_place_already_cannot_leave_the_queue() -> None:
    places = Places(Bulkhead(in_flight=1, queue=2))
    places.take()
    places.wait(nobody)
    assert places.release() is nobody
    assert not places.leave(nobody)
    assert places.in_flight == 1


def test_a_higher_limit_lets_the_waiting_in_and_a_lower_one_takes_no_place_away() -> None:
    places = Places(Bulkhead(in_flight=1, queue=5))
    places.take()
    waiters = [somebody() for _ in range(3)]
    for waiter in waiters:
        places.wait(waiter)
    assert places.adopt(Bulkhead(in_flight=3)) == waiters[:2]
    assert places.adopt(Bulkhead(in_flight=1)) == []
    assert places.in_flight == 3
    assert [places.release() for _ in range(2)] == [None, None]
    assert places.release() is waiters[2]


def test_at_random_no_place_is_lost_or_given_twice() -> None:
    dice = random.Random(2)
    for _ in range(100):
        places, holders, waiting = Places(Bulkhead(in_flight=3, queue=3)), 0, []
        for _ in range(100):
            act = dice.randrange(4)
            if act == 0 and places.take():
                holders += 1
            elif act == 1 and places.in_flight >= 3:
                waiter = somebody()
                if places.wait(waiter):
                    waiting.append(waiter)
            elif act == 2 and holders:
                served = places.release()
                holders -= 1
                if served is not None:
                    assert served is waiting.pop(0)
                    holders += 1
            elif act == 3 and waiting:
                assert places.leave(waiting.pop(dice.randrange(len(waiting))))
            assert (places.in_flight, places.waiting) == (holders, len(waiting))
            assert holders <= 3
            assert len(waiting) <= 3
