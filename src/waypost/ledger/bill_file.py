"""A provider's usage lines as a file says them: CSV with a header, a JSON array or object, or one JSON object a line.

    day, model, amount          needed; in any column order, further columns are left alone
    id                          the provider's name of the answer, when a line is one request
    api_key                     which of several credentials, when a line is the sum of one

Names that providers use for these are known too, see `_NAMES`. Amounts are USD, or nano-USD in a column `nanos`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from hashlib import blake2b

import msgspec

from waypost.kit.money import NANOS_MAX, NANOS_PER_USD, Nanos
from waypost.ledger.record import answer_digest

LINES_MAX = 1_000_000  # of one file: what a day of a busy provider comes to, and what fits in memory
TEXT_MAX = 512  # characters of a name or an id
_NAMES = {
    "day": ("day", "date", "timestamp", "created_at", "created", "start_time", "at"),
    "model": ("model", "model_name"),
    "usd": ("cost_usd", "amount_usd", "usd", "cost", "amount"),
    "nanos": ("nanos", "amount_nanos"),
    "id": ("id", "request_id", "generation_id"),
    "api_key": ("api_key", "api_key_id", "credential"),
}
_MILLISECONDS_FROM = 10**11  # a Unix time above it is not in seconds
_JSON = msgspec.json.Decoder(float_hook=Decimal)  # an amount never passes through a float


class BadBill(Exception):
    """A file that cannot be imported. The text names the line and what to do; nothing of the file has been taken."""


class BillLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a provider's bill."""

    key: bytes  # 16 bytes; the same line of a later file has the same, so that it is imported once
    day: date  # UTC
    model: str  # as the provider names it
    amount_nanos: Nanos
    answer: bytes  # `answer_digest` of the request that it bills, or b"" when it bills a sum


def read_bill(data: bytes, *, oldest: date = date.min, newest: date = date.max) -> list[BillLine]:
    """The lines of a file, all of them of days within the bounds. Raises BadBill."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data[: error.start].count(b"\n") + 1
        raise BadBill(f"line {bad}: this is not UTF-8 text") from None
    rows = _json_rows(text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text)
    lines: list[BillLine] = []
    seen: dict[bytes, int] = {}
    for number, row in rows:
        line = _read_line(number, row)
        if line is None:
            continue
        if not oldest <= line.day <= newest:
            raise BadBill(f"line {number}: {line.day} is not between {oldest} and {newest}, of which the books tell")
        if seen.setdefault(line.key, number) != number:
            what = "this id" if line.answer else "this day, model and api_key"
            raise BadBill(f"line {number}: {what} stands in line {seen[line.key]} already; a file says it once")
        if len(lines) == LINES_MAX:
            raise BadBill(f"line {number}: a file has at most {LINES_MAX} lines; split it by day")
        lines.append(line)
    if not lines:
        raise BadBill("there is no line in it")
    return lines


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(header)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise BadBill(f"line {reader.line_num}: {len(row)} cells under a header of {len(header)}")
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))
    except csv.Error as error:
        raise BadBill(f"line {reader.line_num}: this is not CSV: {error}") from None


def _check_header(header: list[str]) -> None:
    for needed, names in (("day", _NAMES["day"]), ("model", _NAMES["model"])):
        if not any(name in header for name in names):
            raise BadBill(f"line 1: there is no column {needed} (or {', '.join(names[1:])})")
    if not any(name in header for name in (*_NAMES["usd"], *_NAMES["nanos"])):
        raise BadBill(
            "line 1: there is no column with the amount: cost_usd (or amount_usd, usd, cost, amount), or nanos"
        )


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """The objects of an array, of the array `lines` or `data` of an object, or one on each line."""
    try:
        found: object = _JSON.decode(text)
    except msgspec.DecodeError as error:
        first, _, rest = text.lstrip().partition("\n")
        if not rest.strip() or not _is_object(first):
            raise BadBill(f"this is not JSON: {error}") from None
        yield from _json_lines(text)
        return
    if isinstance(found, dict):
        found = found.get("lines", found.get("data", [found]))
    if not isinstance(found, list):
        raise BadBill("a JSON file is an array of lines, or an object with the array `lines`")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise BadBill(f"line {number}: a line is an object")
        yield number, row


def _is_object(text: str) -> bool:
    try:
        return isinstance(_JSON.decode(text), dict)
    except msgspec.DecodeError:
        return False


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            if not _is_object(line):
                raise BadBill(f"line {number}: this is not a JSON object")
            yield number, _JSON.decode(line)


def _read_line(number: int, row: Mapping[str, object]) -> BillLine | None:
    """None for a line that bills nothing yet: a simulator lists answers that are still being given."""
    if row.get("is_open") is True:
        return None
    day = _read_day(number, _first(row, "day"))
    model = _read_text(number, "model", _first(row, "model"))
    if not model:
        raise BadBill(f"line {number}: there is no model")
    answer_id = _read_text(number, "id", _first(row, "id"))
    api_key = _read_text(number, "api_key", _first(row, "api_key"))
    amount = _read_amount(number, row)
    if answer_id:
        answer = answer_digest(answer_id)
        return BillLine(answer, day, model, amount, answer)
    # A credential's name, and not the credential, one hopes; of either nothing is kept but that it is the same.
    key = blake2b(msgspec.json.encode([day.isoformat(), model, api_key]), digest_size=16, person=b"sum").digest()
    return BillLine(key, day, model, amount, b"")


def _first(row: Mapping[str, object], what: str) -> object:
    return next((row[name] for name in _NAMES[what] if row.get(name) not in (None, "")), None)


def _read_text(number: int, name: str, value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    if not isinstance(value, str | int) or len(text) > TEXT_MAX or not text.isprintable():
        raise BadBill(f"line {number}: {name} is at most {TEXT_MAX} printable characters")
    return text


def _read_day(number: int, value: object) -> date:
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value // 1000 if value >= _MILLISECONDS_FROM else value, UTC).date()
        moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        raise BadBill(f"line {number}: the day is written as 2026-11-01, or as a moment in ISO 8601") from None
    return (moment.astimezone(UTC) if moment.tzinfo is not None else moment).date()


def _read_amount(number: int, row: Mapping[str, object]) -> Nanos:
    nanos, usd = _first(row, "nanos"), _first(row, "usd")
    value, scale = (nanos, 1) if nanos is not None else (usd, NANOS_PER_USD)
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise BadBill(f"line {number}: there is no amount")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise BadBill(f"line {number}: the amount is not a number") from None
    if not amount.is_finite() or amount < 0:
        raise BadBill(f"line {number}: an amount is zero or more; credits and discounts are no usage lines")
    if amount * scale > NANOS_MAX:
        raise BadBill(f"line {number}: the largest amount is {NANOS_MAX // NANOS_PER_USD} USD")
    # Providers round up too: what is below a nano-dollar counts as one.
    return int((amount * scale).to_integral_value(ROUND_CEILING))
