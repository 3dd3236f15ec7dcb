"""Files of provider usage: what is read of them, and the line that a refusal names."""

from __future__ import annotations

import json
from datetime import date

import pytest

from waypost.ledger.bill_file import BadBill, BillLine, read_bill
from waypost.ledger.record import answer_digest

DAY = date(2026, 11, 1)


def csv(*lines: str) -> bytes:
    return "\n".join(lines).encode()


def test_a_csv_file_of_requests() -> None:
    data = csv(
        "Date,Model,extra,cost_usd,id", "2026-11-01,large,x,0.000012,gen-1", "2026-11-01T23:59:59Z,large,,1,gen-2"
    )
    first, second = read_bill(data)
    assert first == BillLine(answer_digest("gen-1"), DAY, "large", 12_000, answer_digest("gen-1"))
    assert second == BillLine(answer_digest("gen-2"), DAY, "large", 10**9, answer_digest("gen-2"))


def test_a_csv_file_of_sums() -> None:
    data = csv("day,model,usd,api_key", "2026-11-01,large,1,a", "2026-11-01,large,1,b", "2026-11-01,small,1,a")
    lines = read_bill(data)
    assert len({line.key for line in lines}) == 3, "a sum is one of its day, model and credential"
    assert [line.answer for line in lines] == [b"", b"", b""]
    assert read_bill(data) == lines, "the same line has the same key again"


def test_an_array_an_object_and_lines_of_json_are_the_same() -> None:
    rows = [{"day": "2026-11-01", "model": "m", "cost": 0.1, "id": f"r{n}"} for n in range(2)]
    expected = read_bill(json.dumps(rows).encode())
    assert [line.amount_nanos for line in expected] == [100_000_000] * 2, "and no float came near it"
    assert read_bill(json.dumps({"lines": rows}).encode()) == expected
    assert read_bill("\n".join(map(json.dumps, rows)).encode()) == expected


def test_the_simulators_bill_is_read_without_the_answers_that_are_still_given() -> None:
    line = {"id": "a", "at": "2026-11-01T10:00:00Z", "style": "alpha", "model": "m", "nanos": "123", "is_open": False}
    data = json.dumps({"total": {}, "lines": [line, {**line, "id": "b", "is_open": True}]}).encode()
    assert [each.amount_nanos for each in read_bill(data)] == [123]


@pytest.mark.parametrize(
    ("amount", "nanos"),
    [("0", 0), ("0.0000000001", 1), ("1.2e-05", 12_000), ("4000000000", 4 * 10**18), ("0.1234567891", 123_456_790)],
)
def test_amounts_are_exact_and_a_part_of_a_nano_counts_as_one(amount: str, nanos: int) -> None:
    assert [line.amount_nanos for line in read_bill(csv("day,model,usd", f"2026-11-01,m,{amount}"))] == [nanos]


@pytest.mark.parametrize(
    ("written", "day"), [("1793577600", 2), ("1793577600000", 2), ("2026-11-01T23:30:00-01:00", 2)]
)
def test_a_day_is_a_day_of_utc(written: str, day: int) -> None:
    value = int(written) if written.isdecimal() else written
    data = json.dumps([{"start_time": value, "model": "m", "usd": "1"}]).encode()
    assert [line.day for line in read_bill(data)] == [date(2026, 11, day)]


_HEAD = "day,model,usd,id"
_GOOD = "2026-11-01,m,1,a"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "there is no column day"),
        (csv(_HEAD), "there is no line"),
        (csv("day,usd", "2026-11-01,1"), "line 1: there is no column model"),
        (csv("day,model", "2026-11-01,m"), "line 1: there is no column with the amount"),
        (csv(_HEAD, _GOOD, "2026-11-01,m,1"), "line 3: 3 cells under a header of 4"),
        (csv(_HEAD, _GOOD, "", "2026-13-01,m,1,b"), "line 4: the day"),
        (csv(_HEAD, "2026-11-01,,1,b"), "line 2: there is no model"),
        (csv(_HEAD, "2026-11-01,m,,b"), "line 2: there is no amount"),
        (csv(_HEAD, "2026-11-01,m,abc,b"), "line 2: the amount is not a number"),
        (csv(_HEAD, "2026-11-01,m,-1,b"), "line 2: an amount is zero or more"),
        (csv(_HEAD, "2026-11-01,m,NaN,b"), "line 2: an amount is zero or more"),
        (csv(_HEAD, "2026-11-01,m,1e30,b"), "line 2: the largest amount"),
        (csv(_HEAD, _GOOD, _GOOD), "line 3: this id stands in line 2 already"),
        (csv("day,model,usd", "2026-11-01,m,1", "2026-11-01,m,2"), "line 3: this day, model and api_key stands in"),
        (csv(_HEAD, f'2026-11-01,m,1,"{"x" * 600}"'), "line 2: id is at most 512"),
        (csv(_HEAD, '2026-11-01,m,1,"a'), "line 2: this is not CSV"),
        (b"day,model,usd\n2026-11-01,\xff,1", "line 2: this is not UTF-8"),
        (b'{"lines": 3}', "a JSON file is an array"),
        (b"[1]", "line 1: a line is an object"),
        (b'[{"day": "2026-11-01", "model": "m", "usd": true}]', "line 1: there is no amount"),
        (b'[{"day": "2026-11-01", "model": ["m"], "usd": 1}]', "line 1: model is at most"),
        (b'{"day": "2026-11-01", "model": "m", "usd": 1}\n{"day"', "line 2: this is not a JSON object"),
        (b'[{"day": }]', "this is not JSON"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(data: bytes, said: str) -> None:
    with pytest.raises(BadBill, match=said.replace("(", r"\(")):
        read_bill(data)
