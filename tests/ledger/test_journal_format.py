"""Journal bytes: everything written is read again, and nothing that was not written ever is."""

import string

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from waypost.ledger.journal_format import (
    MAGIC,
    Record,
    encode,
    encode_ack,
    encode_grant,
    read_segment,
)
from waypost.ledger.record import Ack, Close, Extend, Grant, Open, Outcome, Progress
from waypost.wire.canonical import Usage

ids = st.binary(min_size=16, max_size=16)
amounts = st.integers(0, 4 * 10**18)
text = st.text(max_size=60)
records = st.one_of(
    st.builds(Grant, lease_id=ids, org_id=ids, granted_nanos=amounts),
    st.builds(
        Open,
        attempt_id=ids,
        execution_id=ids,
        lease_id=ids,
        org_id=ids,
        api_key_id=ids,
        hold_nanos=amounts,
        cost_bound_nanos=amounts,
        price_version=amounts,
        attempt_number=st.integers(1, 3),
        opened_at_ms=amounts,
        accepted_at_ms=amounts,
        is_stream=st.booleans(),
        model=text,
        provider=text,
        deployment=text,
        has_long_hold=st.booleans(),
    ),
    st.builds(
        Close,
        attempt_id=ids,
        outcome=st.sampled_from(Outcome),
        is_final=st.booleans(),
        charge_nanos=amounts,
        cogs_nanos=amounts,
        closed_at_ms=amounts,
        first_content_ms=amounts,
        status=st.integers(0, 599),
        error_code=st.text(alphabet=string.ascii_uppercase + "_", max_size=40),
        usage=st.builds(
            Usage,
            input_tokens=amounts,
            cache_read_tokens=amounts,
            cache_write_5m_tokens=amounts,
            cache_write_1h_tokens=amounts,
            output_tokens=amounts,
            reasoning_tokens=amounts,
            images=st.sampled_from([0, 3]),
            duration_ms=st.sampled_from([0, 10**9]),
            audio_output_tokens=st.sampled_from([0, 7]),
            is_estimated=st.booleans(),
        ),
        answer=st.one_of(st.just(b""), ids),
    ),
    st.builds(Progress, attempt_id=ids, input_tokens=amounts, output_tokens=amounts, charge_nanos=amounts),
    st.builds(Extend, attempt_id=ids, hold_nanos=amounts),
    st.builds(Ack, attempt_ids=st.lists(ids, max_size=20).map(tuple)),
)


def frame(lsn: int, record: Record) -> bytes:
    match record:
        case Grant():
            return encode_grant(lsn, record)
        case Ack():
            return encode_ack(lsn, record.attempt_ids)
        case _:
            return encode(lsn, record)


def frames(written: list[Record]) -> list[bytes]:
    return [frame(lsn, record) for lsn, record in enumerate(written, 1)]


def read(data: bytes) -> tuple[list[Record], list[int]]:
    damaged_at: list[int] = []
    return [record for _, record in read_segment(data, damaged_at)], damaged_at


@given(st.lists(records, max_size=8))
def test_what_is_written_is_read(written: list[Record]) -> None:
    data = MAGIC + b"".join(frames(written)) + bytes(100)

    assert read(data) == (written, [])


@settings(max_examples=10)
@given(st.lists(records, min_size=1, max_size=3))
def test_a_tail_torn_at_any_byte_leaves_the_records_before_it_and_no_alarm(written: list[Record]) -> None:
    whole = b"".join(frames(written))
    ends = [sum(map(len, frames(written)[: n + 1])) for n in range(len(written))]

    for cut in range(len(whole)):
        complete = sum(end <= cut for end in ends)
        # A last frame that ends in zeros is complete before its last bytes are there.
        found, damaged_at = read(MAGIC + whole[:cut] + bytes(len(whole) - cut + 50))
        assert damaged_at == []
        assert found[:complete] == written[:complete]
        assert found == written[: len(found)]


@given(st.lists(records, min_size=3, max_size=6), st.data())
def test_a_flipped_bit_before_the_tail_costs_one_record_and_raises_the_alarm(
    written: list[Record], data: st.DataObject
) -> None:
    parts = frames(written)
    bad = data.draw(st.integers(0, len(written) - 2))
    start = len(MAGIC) + sum(map(len, parts[:bad]))
    at = start + data.draw(st.integers(0, len(parts[bad]) - 1))
    segment = bytearray(MAGIC + b"".join(parts) + bytes(64))
    segment[at] ^= 1 << data.draw(st.integers(0, 7))

    found, damaged_at = read(bytes(segment))

    assert damaged_at == [start]
    assert found == written[:bad] + written[bad + 1 :]


def test_a_page_lost_from_the_middle_raises_the_alarm_and_what_follows_is_read() -> None:
    written: list[Record] = [Grant(bytes([n]) * 16, b"o" * 16, n) for n in range(1, 200)]
    segment = bytearray(MAGIC + b"".join(frames(written)) + bytes(5000))
    segment[4096:8192] = bytes(4096)

    found, damaged_at = read(bytes(segment))

    assert len(damaged_at) == 1
    assert found[0] == written[0]
    assert found[-1] == written[-1]
    assert len(found) < len(written)


def test_garbage_longer_than_a_record_at_the_end_is_no_torn_tail() -> None:
    segment = MAGIC + encode_grant(1, Grant(b"l" * 16, b"o" * 16, 5)) + b"\xff" * 40_000

    found, damaged_at = read(segment)

    assert len(found) == 1
    assert damaged_at


@pytest.mark.parametrize("data", [b"", bytes(4096), MAGIC, MAGIC + bytes(4096)])
def test_a_segment_that_was_never_used_is_empty_and_sound(data: bytes) -> None:
    assert read(data) == ([], [])


def test_a_file_that_is_no_segment_raises_the_alarm() -> None:
    assert read(b"something else entirely") == ([], [0])


@given(st.binary(max_size=2000))
def test_no_bytes_whatever_break_the_reader(noise: bytes) -> None:
    read(MAGIC + noise)


# As they were written when the byte that now holds two flags was whether it is a stream.
_OLD_STREAM = (
    "a600000005e0d58c01000000000000000261616161616161616161616161616161656565656565656565656565656565656c656173652d6e"
    "756d6265722d6f6e656f7267616e69736174696f6e2d6f6e656170692d6b65792d6e756d6265722d31e803000000000000bc02000000000000"
    "03000000000000000100c02cc89901000000c02cc8990100000107000500110073776966742d31616c706861616c7068612f616c7068612d6c"
    "61726765"
)
_OLD_PLAIN = (
    "a6000000dd56dad602000000000000000262626262626262626262626262626262656565656565656565656565656565656c656173652d6e"
    "756d6265722d6f6e656f7267616e69736174696f6e2d6f6e656170692d6b65792d6e756d6265722d31e803000000000000bc02000000000000"
    "03000000000000000100c02cc89901000000c02cc8990100000007000500110073776966742d31616c706861616c7068612f616c7068612d6c"
    "61726765"
)


def test_a_journal_from_before_long_holds_reads_on() -> None:
    found, damaged_at = read(MAGIC + bytes.fromhex(_OLD_STREAM) + bytes.fromhex(_OLD_PLAIN))

    assert damaged_at == []
    streamed, plain = found
    assert isinstance(streamed, Open)
    assert isinstance(plain, Open)
    assert (streamed.is_stream, streamed.has_long_hold) == (True, False)
    assert (plain.is_stream, plain.has_long_hold) == (False, False)
    assert (streamed.accepted_at_ms, streamed.deployment) == (1_760_000_000_000, "alpha/alpha-large")
    assert [frame(1, streamed).hex(), frame(2, plain).hex()] == [_OLD_STREAM, _OLD_PLAIN]
