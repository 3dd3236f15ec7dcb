"""A call of a pool as something to wait for: the whole answer, or why there is none."""

from __future__ import annotations

import asyncio

import msgspec

from waypost.transport.http1_client import CallTimeouts, Pool, TransportFailure


class WholeAnswer(msgspec.Struct, frozen=True):
    """Names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def __repr__(self) -> str:
        return f"<answer {self.status}>"  # never the body


class NoAnswer(msgspec.Struct, frozen=True):
    """`is_sent`: whether any byte of the request was handed to a connected socket. `status` of a head that had come."""

    failure: TransportFailure
    is_sent: bool
    status: int = 0


async def ask(
    pool: Pool, head: bytes, body: bytes, timeouts: CallTimeouts, *, body_bytes_max: int
) -> WholeAnswer | NoAnswer:
    """One call from its beginning to its end; `head` and bounds as in `Pool.call`. Cancelled, the call is aborted. An
    answer that ends with its connection counts as whole: its reader has to tell."""
    receiver = _Whole()
    call = pool.call(head, body, receiver, timeouts, body_bytes_max=body_bytes_max)
    try:
        failure = await receiver.ended
    except asyncio.CancelledError:
        call.abort()
        raise
    if failure is not None:
        return NoAnswer(failure, call.is_sent, receiver.status)
    return WholeAnswer(receiver.status, receiver.headers, b"".join(receiver.parts))


class _Whole:
    """A receiver of the client."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[TransportFailure | None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers

    def on_data(self, data: bytes) -> None:
        self.parts.append(data)

    def on_end(self) -> None:
        self._end(None)

    def on_failure(self, failure: TransportFailure) -> None:
        self._end(failure)

    def _end(self, failure: TransportFailure | None) -> None:
        if not self.ended.done():
            self.ended.set_result(failure)
