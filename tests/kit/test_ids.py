from __future__ import annotations

import uuid

import pytest

from waypost.kit import ids
from waypost.kit.ids import Ids


def test_ids_are_version_seven_uuids_of_their_moment() -> None:
    raw = Ids(now_ns=lambda: 1_790_000_000_123_999_999).new()
    parsed = uuid.UUID(bytes=raw)

    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert ids.unix_ms(raw) == 1_790_000_000_123


def test_ids_increase_when_the_clock_stands_still_or_steps_back() -> None:
    clock = iter([10**15] * 5_000 + [10**14] * 5_000)
    source = Ids(now_ns=lambda: next(clock))
    made = [source.new() for _ in range(10_000)]

    assert made == sorted(set(made))


def test_an_id_reads_back_from_its_text() -> None:
    raw = Ids().new()

    assert ids.parse("exec", ids.text("exec", raw)) == raw
    assert ids.text("exec", raw) == f"exec_{uuid.UUID(bytes=raw)}"


@pytest.mark.parametrize(
    "value", ["", "exec_", "key_0192f0c4-0000-7000-8000-000000000000", "exec_0192f0c4", "exec_" + "x" * 36]
)
def test_another_text_is_no_id(value: str) -> None:
    with pytest.raises(ValueError, match=r"not an id|hexadecimal"):
        ids.parse("exec", value)


def test_the_lowest_id_of_a_moment_bounds_a_range() -> None:
    raw = Ids(now_ns=lambda: 5_000_000).new()

    assert ids.lowest_at(5) <= raw < ids.lowest_at(6)
