"""Leases: how large, and never more spent and held than granted."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.lease import LEASE_NANOS_MAX, Lease, lease_size

CENT = NANOS_PER_USD // 100


@pytest.mark.parametrize(
    ("available", "needed", "wanted", "nodes", "size"),
    [
        (100 * NANOS_PER_USD, 1 * CENT, 0, 1, 5 * CENT),  # at least the minimum
        (100 * NANOS_PER_USD, 30 * CENT, 0, 1, 30 * CENT),  # at least what is needed
        (100 * NANOS_PER_USD, 1 * CENT, 80 * CENT, 1, 80 * CENT),  # ten seconds of spending
        (100 * NANOS_PER_USD, 1 * CENT, 900 * CENT, 1, 500 * CENT),  # what a lost node may lock up
        (4 * NANOS_PER_USD, 1 * CENT, 900 * CENT, 2, 100 * CENT),  # half of the rest, shared by two
        (100 * NANOS_PER_USD, 700 * CENT, 0, 1, 700 * CENT),  # one dear request
        (20 * CENT, 1 * CENT, 900 * CENT, 4, 1 * CENT),  # tail: exactly what is needed
        (9 * CENT, 8 * CENT, 0, 1, 8 * CENT),
        (0, 8 * CENT, 0, 1, 8 * CENT),  # the ledger refuses, not this rule
    ],
)
def test_the_size_of_a_lease(available: int, needed: int, wanted: int, nodes: int, size: int) -> None:
    assert lease_size(available_nanos=available, needed_nanos=needed, wanted_nanos=wanted, nodes=nodes) == size


amounts = st.integers(0, 20 * NANOS_PER_USD)


@given(available=amounts, needed=amounts, wanted=amounts, nodes=st.integers(1, 64))
def test_a_lease_covers_the_need_and_leaves_the_rest_to_others(
    available: int, needed: int, wanted: int, nodes: int
) -> None:
    size = lease_size(available_nanos=available, needed_nanos=needed, wanted_nanos=wanted, nodes=nodes)

    assert size >= needed
    assert size == needed or size <= min(LEASE_NANOS_MAX, available // (2 * nodes))


@given(granted=st.integers(0, 1000), steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=30))
def test_spent_and_held_never_exceed_granted(granted: int, steps: list[tuple[int, int]]) -> None:
    lease = Lease(lease_id=b"l", org_id=b"o")
    lease.granted_nanos = granted
    held: list[int] = []

    for hold, charge in steps:
        if lease.take(hold):
            held.append(hold)
        elif held:
            amount = held.pop(0)
            lease.spend(hold_nanos=amount, charge_nanos=min(charge, amount))
        assert 0 <= lease.spent_nanos + lease.held_nanos <= lease.granted_nanos
        assert lease.held_nanos == sum(held)
        assert lease.holds == len(held)


def test_a_charge_above_its_hold_is_a_defect_not_a_charge() -> None:
    lease = Lease(lease_id=b"l", org_id=b"o")
    lease.granted_nanos = 100
    assert lease.take(50)

    with pytest.raises(AssertionError):
        lease.spend(hold_nanos=50, charge_nanos=51)
