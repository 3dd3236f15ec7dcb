"""The comparison of the books with what load and mocks counted."""

from __future__ import annotations

import msgspec
import pytest
from bench.books import CHARGE_NANOS, Books, Counted, compare, count, read_books
from bench.report import Sample
from bench.scenario import Shape

from waypost.kit.values import replace

COUNTED = Counted(answered=1000, cut_off_max=64, held=20, plain_upstream=910, failed=0)
# 1,000 answers read, 8 more completed and 2 left when wrk stopped, 20 streams closed by the load.
BOOKS = Books(
    executions=1030,
    completed=1008,
    disconnected=22,
    plain_attempts=910,
    settlements=1030,
    attempts=1030,
    charged_by_executions=1008 * CHARGE_NANOS + 500,
    charged_by_settlements=1008 * CHARGE_NANOS + 500,
    charged_for_completed=1008 * CHARGE_NANOS,
    house=0,
    refunded=0,
    credited=10**15,
    available=10**15 - 1008 * CHARGE_NANOS - 500 - 7_000_000,
    leased=7_000_000,
    lease_settled=1008 * CHARGE_NANOS + 500,
)


def test_a_call_costs_a_thousandth_of_a_dollar() -> None:
    assert CHARGE_NANOS == 1_000_000


def test_books_that_agree_pass_every_check() -> None:
    assert [check.text for check in compare(BOOKS, COUNTED) if not check.is_ok] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"completed": 999},
        {"completed": 1065},
        {"disconnected": 19},
        {"executions": 1031},
        {"plain_attempts": 909},
        {"plain_attempts": 975},
        {"settlements": 1029},
        {"settlements": 1031, "attempts": 1031},
        {"charged_for_completed": 1008 * CHARGE_NANOS - 1},
        {"charged_by_settlements": 1008 * CHARGE_NANOS},
        {"available": BOOKS.available + 1},
        {"lease_settled": BOOKS.lease_settled - 1},
        {"house": 1},
    ],
)
def test_a_row_or_a_nano_dollar_too_few_or_too_many_is_seen(wrong: dict[str, int]) -> None:
    assert [check for check in compare(replace(BOOKS, **wrong), COUNTED) if not check.is_ok]


def test_failed_calls_are_seen() -> None:
    assert not all(check.is_ok for check in compare(BOOKS, replace(COUNTED, failed=1)))


def test_what_the_load_counted_is_gathered_from_the_samples_of_waypost_only() -> None:
    samples = [
        Sample("memory", "waypost", 1, {"requests": 20, "warm_requests": 16, "failed": 0, "mock_requests": 0}),
        Sample("plain", "waypost", 1, {"requests": 900, "warm_requests": 90, "failed": 1, "mock_requests": 995}),
        Sample("plain", "nginx", 1, {"requests": 5000, "warm_requests": 500, "failed": 3, "mock_requests": 5500}),
    ]

    assert count(samples, Shape(connections=64)) == Counted(
        answered=1006, cut_off_max=128, held=20, plain_upstream=995, failed=1
    )


def test_the_books_of_an_empty_database_are_all_zero(database: str) -> None:
    assert set(msgspec.structs.asdict(read_books(database)).values()) == {0}
