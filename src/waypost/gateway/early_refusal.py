"""Refusing calls before they are read, while the process sheds: what one costs then is taken from the calls that are
still answered, and reading it would be most of that.

Nobody is authenticated for it, as for any other call that is shed.
"""

from __future__ import annotations

from functools import lru_cache

from waypost.gateway.endpoints import chat_endpoint
from waypost.gateway.pressure import Pressure
from waypost.gateway.refusing import SHED, Telling, telling
from waypost.kit import ids
from waypost.kit.ids import Ids
from waypost.telemetry.metrics import Counter
from waypost.transport.exchange import render_head
from waypost.transport.whole_request import WholeRequest

_STARTS = 256  # that are known: a path with a model in it is one for each
_START_BYTES_MAX = 256  # of one of them


class EarlyRefusals:
    """`answer` is `transport.server_connection.AnswerEarly`."""

    def __init__(self, pressure: Pressure, ids_source: Ids, answers_counted: Counter) -> None:
        self._pressure = pressure
        self._ids = ids_source
        self._answers_counted = answers_counted
        self._whole = WholeRequest()
        self._parts: dict[tuple[str, int], tuple[bytes, ...]] = {}  # of answers, by dialect and wait
        self._date_line = b""  # in them

    def answer(self, data: bytes, date_line: bytes) -> bytes:
        """The refusal of what a connection read between two requests, if that is a whole call that is to be shed; else
        b"", and nothing has happened: it is to be read."""
        if not self._pressure.is_full():
            return b""
        start = self._whole.start(data)
        # A query may be at fault, or hold a key.
        dialect = _dialect_of(start) if start and len(start) <= _START_BYTES_MAX and b"?" not in start else ""
        if not dialect:
            return b""
        if date_line is not self._date_line:
            self._parts.clear()
            self._date_line = date_line
        wait_s = self._pressure.refused()
        parts = self._parts.get((dialect, wait_s))
        if parts is None:
            parts = self._parts[dialect, wait_s] = _parts(telling(dialect, SHED[wait_s]), date_line)
        self._answers_counted.add("", "refused", SHED[wait_s].code.name)
        return ids.text("req", self._ids.new()).encode().join(parts)


@lru_cache(maxsize=_STARTS)
def _dialect_of(start: bytes) -> str:
    """Of the calls at `POST /path`; "" for what is no call."""
    method, _, target = start.partition(b" ")
    endpoint = chat_endpoint(target.decode("latin-1")) if method == b"POST" else None
    return "" if endpoint is None else endpoint.format.dialect


def _parts(told: Telling, date_line: bytes) -> tuple[bytes, ...]:
    """The whole answer: an id is as long as any other, so its length is known."""
    length = sum(map(len, told.body)) + (len(told.body) - 1) * len(ids.text("req", bytes(16)))
    *lines, last = told.lines
    head = render_head(told.status, date_line, b"", lines[0])
    last = b"%bcontent-length: %d\r\n\r\n" % (last, length)
    return (head, *lines[1:], last + told.body[0], *told.body[1:])
