"""A provider's bill against the books: the cost becomes what is billed, whatever the difference is made of."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.bill_file import BillLine
from waypost.ledger.reconciliation import BookedAttempt, Group, reconcile_group
from waypost.ledger.record import answer_digest

DAY = date(2026, 11, 1)
CENT = NANOS_PER_USD // 100


def line(amount: int, answer_id: str = "") -> BillLine:
    answer = answer_digest(answer_id) if answer_id else b""
    return BillLine(answer or b"sum of %d" % amount, DAY, "m", amount, answer)


def booked(
    number: int, cogs: int, answer_id: str = "", *, charge: int = 0, is_estimated: bool = False
) -> BookedAttempt:
    answer = answer_digest(answer_id) if answer_id else b""
    return BookedAttempt(b"attempt %08d" % number, b"execution", cogs, charge, is_estimated, answer)


def compare(lines: list[BillLine], attempts: list[BookedAttempt]) -> Group:
    return reconcile_group(DAY, "m", lines, attempts)


def test_a_bill_that_says_what_the_books_say_changes_nothing() -> None:
    group = compare([line(5, "a"), line(7, "b")], [booked(1, 5, "a"), booked(2, 7, "b")])
    assert (group.costs, group.raised_nanos, group.is_alarming) == ({}, 0, False)


def test_a_named_line_corrects_its_attempt_either_way() -> None:
    group = compare([line(5, "a"), line(9, "b")], [booked(1, 6, "a"), booked(2, 8, "b")])
    assert group.costs == {b"attempt 00000001": 5, b"attempt 00000002": 9}
    assert (group.difference_nanos, group.is_alarming) == (0, False)


def test_a_crash_takes_the_line_that_nobody_else_has() -> None:
    group = compare([line(5, "a"), line(3, "lost")], [booked(1, 5, "a"), booked(2, 20, is_estimated=True)])
    assert group.costs == {b"attempt 00000002": 3}
    assert (group.unmatched_lines, group.difference_nanos) == ((), 0)


def test_lines_take_the_smallest_estimates_that_cover_them() -> None:
    crashed = [booked(number, cogs, is_estimated=True) for number, cogs in enumerate((10, 20, 30))]
    group = compare([line(1, "a"), line(8, "x"), line(25, "y"), line(11, "z")], [booked(9, 1, "a"), *crashed])
    assert group.costs == {crashed[0].attempt_id: 8, crashed[1].attempt_id: 11, crashed[2].attempt_id: 25}


def test_an_estimate_explains_one_line_and_not_two() -> None:
    group = compare([line(5, "a"), line(4, "x"), line(3, "y")], [booked(1, 5, "a"), booked(2, 20, is_estimated=True)])
    assert group.costs == {b"attempt 00000002": 4}
    assert ([each.amount_nanos for each in group.unmatched_lines], group.raised_nanos) == ([3], 3)


def test_a_line_for_nothing_we_know_is_the_houses_and_an_incident() -> None:
    group = compare([line(5, "a"), line(3, "stranger")], [booked(1, 5, "a")])
    assert (group.raised_nanos, len(group.unmatched_lines), group.is_alarming) == (3, 1, True)


def test_an_attempt_that_is_not_billed_costs_nothing_and_may_be_refunded() -> None:
    group = compare([line(5, "a")], [booked(1, 5, "a"), booked(2, 7, "b", charge=9), booked(3, 7, is_estimated=True)])
    assert group.costs == {b"attempt 00000002": 0, b"attempt 00000003": 0}
    assert [attempt.attempt_id for attempt in group.refund_candidates] == [b"attempt 00000002"]


def test_sums_that_are_lower_come_off_the_estimates_first() -> None:
    attempts = [booked(1, 10), booked(2, 20, is_estimated=True), booked(3, 5, is_estimated=True)]
    assert compare([line(28)], attempts).costs == {b"attempt 00000003": 0, b"attempt 00000002": 18}
    group = compare([line(8)], attempts)
    assert (set(group.costs.values()), group.lowered_nanos, group.difference_nanos) == ({0}, 2, -2)


def test_sums_that_are_higher_are_the_houses() -> None:
    group = compare([line(28)], [booked(1, 10)])
    assert (group.costs, group.raised_nanos, group.is_alarming) == ({}, 18, False)


def test_requests_are_summed_up_while_the_books_know_no_names() -> None:
    group = compare([line(6, "a"), line(2, "b")], [booked(1, 5), booked(2, 4, is_estimated=True)])
    assert (group.costs, group.unmatched_lines) == ({b"attempt 00000002": 3}, ())


def test_a_difference_beyond_a_dollar_and_a_thousandth_is_an_alarm() -> None:
    for billed, is_alarming in ((1000, False), (1001, False), (1002, True), (999, False), (998, True)):
        group = compare([line(billed * NANOS_PER_USD)], [booked(1, 1000 * NANOS_PER_USD)])
        assert group.is_alarming == is_alarming, billed
    for cents, is_alarming in ((200, False), (201, True)):
        assert compare([line(cents * CENT)], [booked(1, 100 * CENT)]).is_alarming == is_alarming


def test_a_wrong_cost_price_is_an_alarm_though_every_line_has_its_attempt() -> None:
    group = compare([line(3 * NANOS_PER_USD, "a")], [booked(1, NANOS_PER_USD, "a")])
    assert (group.difference_nanos, group.is_alarming) == (2 * NANOS_PER_USD, True)


_AMOUNTS = st.integers(0, 50)
_NAMES = st.sampled_from(["", "a", "b", "c", "d", "e"])


@given(
    st.lists(st.tuples(_AMOUNTS, _NAMES), max_size=8, unique_by=lambda pair: pair[1] or object()),
    st.lists(st.tuples(_AMOUNTS, _NAMES, st.booleans()), max_size=8, unique_by=lambda row: row[1] or object()),
    st.randoms(),
)
def test_the_cost_is_what_is_billed_and_the_order_does_not_matter(
    billed: list[tuple[int, str]], known: list[tuple[int, str, bool]], dice: object
) -> None:
    lines = [line(amount, name) for amount, name in billed]
    attempts = [booked(n, cogs, name, is_estimated=guess) for n, (cogs, name, guess) in enumerate(known)]
    group = compare(lines, attempts)
    costs = [group.costs.get(attempt.attempt_id, attempt.cogs_nanos) for attempt in attempts]
    assert sum(costs) + group.raised_nanos - group.lowered_nanos == sum(amount for amount, _ in billed)
    assert min([*costs, group.raised_nanos, group.lowered_nanos]) >= 0
    dice.shuffle(lines)  # type: ignore[attr-defined]
    dice.shuffle(attempts)  # type: ignore[attr-defined]
    again = compare(lines, attempts)
    assert (again.costs, again.raised_nanos, again.lowered_nanos) == (
        group.costs,
        group.raised_nanos,
        group.lowered_nanos,
    )
