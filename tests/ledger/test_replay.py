"""What a journal means after a crash: one ending per attempt, one row per execution."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from tests.gateway.disk import closed, opened
from waypost.ledger.journal_format import Record
from waypost.ledger.record import Ack, Close, ClosedAttempt, Extend, Open, Outcome, Progress
from waypost.ledger.replay import replay

NOW_MS = 1_770_000_000_000


def test_an_unacknowledged_close_is_booked_as_it_stands() -> None:
    record = opened()
    ending = closed(record)

    assert replay([record, ending], NOW_MS) == [ClosedAttempt(record, ending)]


def test_what_the_database_acknowledged_is_not_booked_again() -> None:
    record = opened()

    assert replay([record, closed(record), Ack((record.attempt_id,))], NOW_MS) == []


def test_an_open_without_close_crashed_at_no_charge_and_at_the_most_it_may_have_cost() -> None:
    record = opened(cost_bound=700)

    [row] = replay([record], NOW_MS)

    assert row.open == record
    assert row.close.outcome is Outcome.CRASHED
    assert (row.close.charge_nanos, row.close.cogs_nanos) == (0, 700)
    assert row.close.is_final
    assert row.close.usage.is_estimated
    assert row.close.closed_at_ms == NOW_MS


def test_a_crash_between_two_attempts_still_gives_the_execution_its_row() -> None:
    first = opened()
    failed = closed(first, is_final=False, cogs=30)

    for acknowledged in ([], [Ack((first.attempt_id,))]):
        [row] = replay([first, failed, *acknowledged], NOW_MS)
        assert row.open == first
        assert row.close.is_final
        assert row.close.outcome is Outcome.CRASHED
        # The attempt's money is what it was: it may be booked already.
        assert (row.close.charge_nanos, row.close.cogs_nanos) == (0, 30)


def test_of_two_attempts_the_last_one_ends_the_execution() -> None:
    first = opened()
    second = opened(first.execution_id, number=2)

    rows = replay([first, second, closed(first, is_final=False)], NOW_MS)

    assert {row.open.attempt_number: row.close.is_final for row in rows} == {1: False, 2: True}


def test_an_attempt_left_open_beside_a_final_one_does_not_end_the_execution_again() -> None:
    first = opened()
    second = opened(first.execution_id, number=2)

    rows = replay([first, second, closed(second)], NOW_MS)

    assert {row.open.attempt_number: row.close.is_final for row in rows} == {1: False, 2: True}


def test_a_second_close_may_end_the_execution_but_not_change_the_amounts() -> None:
    record = opened()
    first = closed(record, is_final=False, cogs=30)
    second = closed(record, is_final=True, charge=999, cogs=999)

    [row] = replay([record, first, Ack((record.attempt_id,)), second], NOW_MS)

    assert row.close.is_final
    assert (row.close.charge_nanos, row.close.cogs_nanos) == (0, 30)


def test_a_close_whose_open_is_gone_was_booked_long_ago() -> None:
    assert replay([closed(opened())], NOW_MS) == []


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Executions of one to three attempts, interleaved, with acknowledgements at any place after their CLOSE."""
    lanes: list[list[Record]] = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 3))
        opens = [opened()]
        opens += [opened(opens[0].execution_id, number=number) for number in range(2, count + 1)]
        lane: list[Record] = []
        for record in opens:
            lane += [record, closed(record, is_final=record is opens[-1])]
            if draw(st.booleans()):
                lane.append(Ack((record.attempt_id,)))
        lanes.append(lane)
    history: list[Record] = []
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        history.append(lane.pop(0))
    return history


@given(histories(), st.data())
def test_a_crash_anywhere_leaves_one_ending_per_attempt_and_one_row_per_execution(
    history: list[Record], data: st.DataObject
) -> None:
    before = history[: data.draw(st.integers(0, len(history)))]
    booked = {attempt_id for record in before if isinstance(record, Ack) for attempt_id in record.attempt_ids}
    endings = {record.attempt_id: record for record in before if isinstance(record, Close)}
    opens = {record.attempt_id: record for record in before if isinstance(record, Open)}

    rows = replay(before, NOW_MS)

    assert replay(before, NOW_MS) == rows
    attempts = Counter(row.open.attempt_id for row in rows)
    assert set(attempts.values()) <= {1}
    assert set(attempts) | booked == set(opens)
    finals = Counter(row.open.execution_id for row in rows if row.close.is_final)
    assert set(finals.values()) <= {1}
    # Each execution has its row: from this replay, or booked before it.
    rows_before = {opens[attempt_id].execution_id for attempt_id in booked if endings[attempt_id].is_final}
    assert set(finals) | rows_before == {record.execution_id for record in opens.values()}
    for row in rows:
        if row.open.attempt_id not in endings:
            assert row.close.outcome is Outcome.CRASHED


def test_a_crashed_stream_is_charged_as_its_last_progress_tells_and_never_above_its_hold() -> None:
    one, two = opened(), opened()
    records: list[Record] = [one, two, *(Progress(one.attempt_id, 7, tokens, tokens * 5) for tokens in (10, 20))]
    records += [Progress(two.attempt_id, 7, 99, 10**9), Extend(two.attempt_id, two.hold_nanos + 50)]

    rows = {row.open.attempt_id: row.close for row in replay(records, NOW_MS)}

    first, second = rows[one.attempt_id], rows[two.attempt_id]
    assert (first.charge_nanos, first.usage.input_tokens, first.usage.output_tokens) == (100, 7, 20)
    assert first.usage.is_estimated
    assert second.charge_nanos == two.hold_nanos + 50
    assert first.cogs_nanos == one.cost_bound_nanos


def test_a_crashed_attempt_that_another_one_followed_is_not_charged_for() -> None:
    first = opened()
    second = opened(first.execution_id, number=2)
    records: list[Record] = [first, Progress(first.attempt_id, 7, 10, 50), second]

    rows = {row.open.attempt_number: row.close for row in replay(records, NOW_MS)}

    # The execution's row has the charge of the attempt that ended it.
    assert {number: (row.charge_nanos, row.is_final) for number, row in rows.items()} == {1: (0, False), 2: (0, True)}


def test_a_crash_on_a_long_hold_books_the_cost_alone_and_ends_nothing() -> None:
    record = opened(cost_bound=700, has_long_hold=True)

    [row] = replay([record, Progress(record.attempt_id, 7, 20, 100)], NOW_MS)

    assert row.close.outcome is Outcome.CRASHED
    assert (row.close.charge_nanos, row.close.cogs_nanos, row.close.is_final) == (0, 700, False)


def test_a_failed_attempt_on_a_long_hold_is_booked_as_it_stands_and_ends_nothing() -> None:
    first = opened(has_long_hold=True)
    failed = closed(first, is_final=False, cogs=30)
    second = opened(first.execution_id, number=2, has_long_hold=True)

    rows = replay([first, failed, second], NOW_MS)

    assert {row.open.attempt_number: row.close.is_final for row in rows} == {1: False, 2: False}
    assert rows[-1].close == failed or rows[0].close == failed


def test_attempts_on_a_long_hold_are_forgotten_as_they_are_booked() -> None:
    first = opened(has_long_hold=True)
    second = opened(first.execution_id, number=2, has_long_hold=True)
    history: list[Record] = [first, closed(first, is_final=False), Ack((first.attempt_id,))]

    assert replay(history, NOW_MS) == []
    [row] = replay([*history, second], NOW_MS)
    assert (row.open.attempt_number, row.close.is_final) == (2, False)
