"""What all connections of one server share: counters, and the date line that every answer carries."""

from __future__ import annotations

from email.utils import formatdate

from waypost.kit.clock import SystemClock


class ServerState:
    """Plain numbers, read as gauges; `date_line` is refreshed by the server's sweep."""

    __slots__ = (
        "_clock",
        "_dated_s",
        "accepted",
        "buffered_bytes",
        "bugs",
        "date_line",
        "exchanges",
        "is_closing",
        "is_draining",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Connections since the start."""
        self.exchanges = 0
        """Requests whose answer has not ended."""
        self.buffered_bytes = 0
        """Request bodies held: of requests still arriving, waiting, and being answered."""
        self.bugs = 0
        """Exceptions out of a handler."""
        self.is_draining = False
        """Each answer is the last of its connection."""
        self.is_closing = False
        """Idle connections close."""
        self._clock = SystemClock()
        self._dated_s = 0
        self.date_line = b""
        self.refresh_date()

    def refresh_date(self) -> None:
        """RFC 9110 §5.6.7, whole seconds."""
        now_s = self._clock.unix_ns() // 1_000_000_000
        if now_s != self._dated_s:
            self._dated_s = now_s
            self.date_line = b"date: %b\r\n" % formatdate(now_s, usegmt=True).encode("ascii")
