"""The books after the run, compared with what load and mocks counted of the calls that went through Waypost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec
import psycopg

from bench.exchange import INPUT_TOKENS, OUTPUT_TOKENS
from bench.process import BenchError, wait_until
from bench.report import Check, Sample
from bench.scenario import PLAIN_MODEL, Shape
from bench.system import WAYPOST
from waypost.ledger.record import Outcome

INPUT_USD, OUTPUT_USD = "2.50", "10.00"  # per million tokens
CHARGE_NANOS = (INPUT_TOKENS * 2_500_000_000 + OUTPUT_TOKENS * 10_000_000_000) // 1_000_000  # at these prices
FLUSH_S = 30.0


class Counted(msgspec.Struct, frozen=True):
    """What load and mocks counted of all calls that went through Waypost."""

    answered: int  # complete answers with status 200 that the load read
    cut_off_max: int  # calls that wrk may have left unanswered when its time was up
    held: int  # streams that the load closed before their end
    plain_upstream: int  # plain calls that the mock answered
    failed: int


def count(samples: Iterable[Sample], shape: Shape) -> Counted:
    mine = [sample for sample in samples if sample.system == WAYPOST]

    def total(name: str) -> int:
        return int(sum(sample.values.get(name, 0) for sample in mine))

    held = int(sum(sample.values["requests"] for sample in mine if sample.scenario == "memory"))
    wrk_runs = 2 * sum(sample.scenario == "plain" for sample in mine)  # the warm-up is one too
    return Counted(
        answered=total("requests") + total("warm_requests") - held,
        cut_off_max=wrk_runs * shape.connections,
        held=held,
        plain_upstream=total("mock_requests"),
        failed=total("failed"),
    )


class Books(msgspec.Struct, frozen=True):
    """Sums over the database, nano-USD."""

    executions: int
    completed: int
    disconnected: int
    plain_attempts: int
    settlements: int
    attempts: int
    charged_by_executions: int
    charged_by_settlements: int
    charged_for_completed: int
    house: int
    refunded: int
    credited: int
    available: int
    leased: int
    lease_settled: int


_BOOKS = """
SELECT (SELECT count(*) FROM execution),
       (SELECT count(*) FROM execution WHERE outcome = %(completed)s AND status = 200),
       (SELECT count(*) FROM execution WHERE outcome = %(disconnected)s),
       (SELECT coalesce(sum(attempts), 0)::bigint FROM execution WHERE model = %(plain)s),
       (SELECT count(*) FROM settlement),
       (SELECT coalesce(sum(attempts), 0)::bigint FROM execution),
       (SELECT coalesce(sum(charge), 0)::bigint FROM execution),
       (SELECT coalesce(sum(charge), 0)::bigint FROM settlement),
       (SELECT coalesce(sum(charge), 0)::bigint FROM execution WHERE outcome = %(completed)s),
       (SELECT coalesce(sum(house), 0)::bigint FROM settlement),
       (SELECT coalesce(sum(amount), 0)::bigint FROM refund),
       (SELECT coalesce(sum(amount), 0)::bigint FROM topup),
       (SELECT coalesce(sum(available), 0)::bigint FROM wallet),
       (SELECT coalesce(sum(granted - settled - released), 0)::bigint FROM lease),
       (SELECT coalesce(sum(settled), 0)::bigint FROM lease)
"""


def read_books(conninfo: str) -> Books:
    outcomes = {"completed": int(Outcome.COMPLETED), "disconnected": int(Outcome.DISCONNECTED)}
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(_BOOKS, {"plain": PLAIN_MODEL, **outcomes}).fetchone()
    assert row is not None
    return Books(*row)


def verify(conninfo: str, counted: Counted) -> list[Check]:
    """Compare books and counts once the last rows are written, or when they have had time enough."""
    with contextlib.suppress(BenchError):
        wait_until(
            lambda: all(check.is_ok for check in compare(read_books(conninfo), counted)),
            "the last bookings",
            timeout_s=FLUSH_S,
        )
    return compare(read_books(conninfo), counted)


def compare(books: Books, counted: Counted) -> list[Check]:
    """Every request has its row, and every nano-dollar is where it belongs."""
    expected = books.completed * CHARGE_NANOS
    spent = books.credited + books.refunded - books.available - books.leased
    return [
        Check(f"calls that failed: {counted.failed}", counted.failed == 0),
        Check(
            f"executions completed with 200: {books.completed:,}; answers that the load read: {counted.answered:,}, "
            f"and at most {counted.cut_off_max:,} more that were under way when wrk stopped",
            counted.answered <= books.completed <= counted.answered + counted.cut_off_max,
        ),
        Check(
            f"streams closed by the load: {counted.held:,}; executions that were left by their caller: "
            f"{books.disconnected:,}",
            counted.held <= books.disconnected <= counted.held + counted.cut_off_max,
        ),
        Check(
            f"executions {books.executions:,} = completed {books.completed:,} + left {books.disconnected:,}",
            books.executions == books.completed + books.disconnected,
        ),
        Check(
            f"attempts at plain deployments: {books.plain_attempts:,}; calls that the mock saw: "
            f"{counted.plain_upstream:,}, and at most {counted.cut_off_max:,} more whose caller had left",
            counted.plain_upstream <= books.plain_attempts <= counted.plain_upstream + counted.cut_off_max,
        ),
        Check(
            f"attempts that had to be repeated: {books.attempts - books.executions:,}",
            books.attempts == books.executions,
        ),
        Check(f"settlements {books.settlements:,} = attempts {books.attempts:,}", books.settlements == books.attempts),
        Check(
            f"charged for completed executions {books.charged_for_completed:,} = {books.completed:,} × "
            f"{CHARGE_NANOS:,} nano-USD",
            books.charged_for_completed == expected,
        ),
        Check(
            f"settlements {books.charged_by_settlements:,} = executions {books.charged_by_executions:,} = "
            f"left the wallet {spent:,} = leases settled {books.lease_settled:,} nano-USD",
            books.charged_by_settlements == books.charged_by_executions == spent == books.lease_settled,
        ),
        Check(f"borne by the house: {books.house} nano-USD", books.house == 0),
    ]
