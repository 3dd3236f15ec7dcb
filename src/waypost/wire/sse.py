"""Server-sent events, from bytes to events (WHATWG HTML §9.2.6), in any chunking; every line and event is bounded."""

from __future__ import annotations

EVENTS = b"text/event-stream; charset=utf-8"
HEARTBEAT = b": waypost\n\n"
"""A comment: keeps connections open without being an event."""

LINE_BYTES_MAX = 1_048_576  # unbounded buffers are how one odd upstream takes a gateway down
EVENT_BYTES_MAX = 1_048_576
_LF = 10
_BOM = b"\xef\xbb\xbf"

SseEvent = bytes | tuple[bytes, bytes]
"""The data of an event without a name (or named `message`), or (name, data) of one with another name."""


class SseTooLarge(Exception):
    """A line or an event is over its bound."""


class SseParser:
    """Feed it whatever the socket gave. An event is out once its blank line is in; the rest at the end is void."""

    __slots__ = (
        "_data",
        "_data_bytes",
        "_is_between_events",
        "_is_first_line",
        "_line",
        "_line_bytes",
        "_name",
        "_skips_lf",
    )

    def __init__(self) -> None:
        self._line: list[bytes] | None = None  # pieces of a line whose end has not come yet
        self._line_bytes = 0
        self._data: list[bytes] | None = None  # data lines of the event under way
        self._data_bytes = 0
        self._name = b""
        self._is_first_line = True
        self._is_between_events = True  # nothing of an event or line has come yet
        self._skips_lf = False  # the last read ended in CR: a LF that opens the next one belongs to it

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that these bytes complete, in order. Raises SseTooLarge."""
        if self._is_between_events:
            # `find` and slices, since `in` and `startswith` take about twice as long on bytes.
            end = data.find(b"\n")
            if end == len(data) - 2 and data[:6] == b"data: " and data[end + 1] == _LF:
                # One unnamed event of one line, complete: what most reads are.
                if end <= LINE_BYTES_MAX and data.find(b"\r") < 0:
                    self._is_first_line = False
                    return [data[6:end]]
            else:
                events = _whole_events(data)
                if events is not None:
                    self._is_first_line = False
                    return events
        events = self._feed_lines(data)
        self._is_between_events = not (self._line or self._data or self._name or self._skips_lf)
        return events

    def _feed_lines(self, data: bytes) -> list[SseEvent]:
        if self._skips_lf and data:
            self._skips_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._skips_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        events: list[SseEvent] = []
        for line in lines:
            if self._line:
                self._line.append(line)
                line = b"".join(self._line)  # noqa: PLW2901  the line with its beginning from earlier reads
                self._line, self._line_bytes = None, 0
            if len(line) > LINE_BYTES_MAX:
                raise SseTooLarge
            self._take_line(line, events)
        if rest:
            if self._line is None:
                self._line = []
            self._line.append(rest)
            self._line_bytes += len(rest)
            if self._line_bytes > LINE_BYTES_MAX:
                raise SseTooLarge
        return events

    def _take_line(self, line: bytes, events: list[SseEvent]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                data = b"\n".join(self._data)
                events.append((self._name, data) if self._name and self._name != b"message" else data)
            self._data, self._data_bytes, self._name = None, 0, b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            if self._data is None:
                self._data = []
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > EVENT_BYTES_MAX:
                raise SseTooLarge
        elif field == b"event":
            self._name = value


def _whole_events(data: bytes) -> list[SseEvent] | None:
    """The usual read: one or more events of one `data: …` line each, with or without an `event: …` line before it,
    complete. None for anything else."""
    if not data.endswith(b"\n\n") or b"\r" in data:
        return None
    events: list[SseEvent] = []
    for block in data[:-2].split(b"\n\n"):
        if len(block) > EVENT_BYTES_MAX:
            return None
        name = b""
        if block[:7] == b"event: ":
            head, _, block = block.partition(b"\n")  # noqa: PLW2901  the line that is left
            name = head[7:]
        if block[:6] != b"data: " or block.find(b"\n") >= 0:
            return None
        events.append((name, block[6:]) if name and name != b"message" else block[6:])
    return events
