"""The body of a request that is not held: handed on as it arrives, and waited with while nobody takes it.

head complete → the handler is given the exchange → `read` → on_body … → on_body_end, or on_body_failed
                                    `pause`: the caller's connection is read no further, until `resume`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from waypost.kit.errors import ErrorCode


class Consumer(Protocol):
    """Is told the body, in order; exactly one of the last two calls ends it, unless the caller goes away."""

    def on_body(self, data: bytes) -> None: ...

    def on_body_end(self) -> None: ...

    def on_body_failed(self, code: ErrorCode) -> None:
        """The rest will not come: it is malformed, too large or too slow. Answer with that; the connection is over."""


class Incoming:
    """Between a connection, which pushes, and a consumer. What is pushed while the consumer pauses is kept: no more
    than one read of the socket, since the connection then reads no further."""

    __slots__ = (
        "_consumer",
        "_failure",
        "_is_paused",
        "_is_told",
        "_parts",
        "is_ended",
        "is_kept",
        "length",
        "on_flow",
    )

    def __init__(self, length: int | None) -> None:
        self.length = length
        """As announced; None when it comes in chunks."""
        self.is_ended = False
        """All of it has arrived."""
        self.is_kept = False
        """At its end: whether the connection may carry another request."""
        self.on_flow: Callable[[], None] | None = None
        """For the connection: whether to read has changed."""
        self._consumer: Consumer | None = None
        self._parts: list[bytes] = []
        self._failure: ErrorCode | None = None
        self._is_paused = False
        self._is_told = False  # how it ended

    # What the handler calls.

    def read(self, consumer: Consumer) -> None:
        """Begin: what has arrived is handed over now, and the caller is asked for the rest."""
        self._consumer = consumer
        self._flow()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._flow()

    # What the connection calls.

    @property
    def wants_more(self) -> bool:
        return self._consumer is not None and not (self._is_paused or self._parts or self.is_ended)

    def push(self, data: bytes) -> None:
        """Keep it until `flush`."""
        self._parts.append(data)

    def fail(self, code: ErrorCode) -> None:
        """The rest will not come."""
        if not self.is_ended:
            self._failure = code

    def flush(self) -> None:
        """Hand on what can be."""
        consumer = self._consumer
        if consumer is None or self._is_told:
            return
        if self._failure is not None:
            self._is_told = True
            self._parts.clear()
            consumer.on_body_failed(self._failure)
            return
        if self._parts and not self._is_paused:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            consumer.on_body(data)
        if self.is_ended and not self._parts and not self._is_told:
            self._is_told = True
            consumer.on_body_end()

    def detach(self) -> None:
        """The exchange is over: nobody takes any more."""
        self._consumer = self.on_flow = None
        self._parts.clear()

    def _flow(self) -> None:
        self.flush()
        if self.on_flow is not None:
            self.on_flow()
