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


def test_the_attempts_of_an_execution_have_ids_of_their_own() -> None:
    source = Ids()
    one, other = source.new(), source.new()
    made = [ids.sibling(raw, number) for raw in (one, other) for number in range(1, 256)]

    assert len(set(made)) == 2 * 255
    assert {ids.unix_ms(raw) for raw in made} == {ids.unix_ms(one), ids.unix_ms(other)}
    assert [ids.sibling(one, number) for number in (1, 2, 3)] == [
        one[:15] + bytes((one[15] & 0xFC | number,)) for number in (1, 2, 3)
    ]


def test_what_others_named_has_one_id_with_each_that_it_belongs_to() -> None:
    source = Ids()
    one, other = source.new(), source.new()
    made = [ids.derived(raw, name) for raw in (one, other) for name in ("", "job-1", "job-2")]

    assert len(set(made)) == 6
    assert made[1] == ids.derived(one, "job-1")
    assert {(ids.unix_ms(raw), raw[6] >> 4, raw[8] >> 6) for raw in made[:3]} == {(ids.unix_ms(one), 7, 2)}
    assert not {ids.sibling(one, number) for number in range(256)} & set(made)
