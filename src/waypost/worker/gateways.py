"""The gateways of this machine, as the worker asks them: to call a model under an execution's hold, and to send errands
to providers, which only they have credentials for.

They are found by their sockets in the run directory, and take turns. Another one is asked only when the one before has
certainly sent nothing: it could not be reached, or said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.telemetry.events import report_bug
from waypost.transport.http1_client import CallTimeouts, ClientLimits, Pool
from waypost.transport.origin import Origin
from waypost.transport.whole_answer import NoAnswer, WholeAnswer, ask
from waypost.wire.canonical import Usage
from waypost.wire.errand import Ambiguous, Errand, NotSent, Sent, decode_sent, encode_errand
from waypost.wire.model_call import CallOutcome, ModelCall, call_line, read_outcome

_SOCKETS: Final = "gateway*.sock"
_CONNECT_S = 1.0  # on this machine: one that is slower is not well
_LOOK_S = 1.0  # between looks at the directory
_ERRAND_SLACK_S = 5.0  # in which a gateway tells of an errand's own end
_ATTEMPTS_OF_A_CALL = 3  # at most; what is assumed of one that was lost
_ANSWER_BYTES_MAX = 96 << 20  # images come inside of JSON
_BUSY = frozenset(("gateway_busy", "gateway_not_ready"))


class InferenceAnswer(msgspec.Struct, frozen=True):
    """What a gateway answered. `body` is the answer in the endpoint's format when `status` is 200, else the canonical
    envelope, of which `code` and the next two tell the gist."""

    status: int
    body: bytes
    attempts: int  # of the execution until now: `attempts_before` of a next call
    is_sent: bool  # whether any provider may have received it
    usage: Usage | None = None
    charge_nanos: int = 0
    code: str = ""  # a name of `kit.errors.ErrorCode`
    is_retryable: bool = False
    retry_after_s: float | None = None

    def __repr__(self) -> str:
        return f"<inference answer {self.status} {self.code}>"  # never the body


class _Error(msgspec.Struct):
    code: str = ErrorCode.INTERNAL_ERROR.name
    retryable: bool = False


class _Envelope(msgspec.Struct):
    error: _Error


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Gateways:
    """Made and used inside one running loop."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._loop = asyncio.get_running_loop()
        self._looked_s = float("-inf")
        self._gateways: dict[str, _Gateway] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for gateway in self._gateways.values():
            await gateway.pool.close()
        await asyncio.gather(*self._closing)

    async def call(self, call: ModelCall, path: str, body: bytes, *, timeout_s: float) -> InferenceAnswer:
        """One call of a caller's endpoint, such as `/v1/chat/completions`, to its end; cancelled, it ends at the
        provider as for a caller who leaves. With `"stream": true` in the body the provider streams it, so that its
        pauses are bounded and not its length; the answer comes whole all the same."""
        for gateway in self._in_turn():
            answer = await self._call(gateway, call, path, body, timeout_s)
            if answer.is_sent or answer.code != ErrorCode.SERVICE_UNAVAILABLE.name:
                return answer
            call = replace(call, attempts_before=answer.attempts)
        return _unavailable(call.attempts_before, is_sent=False)

    async def errand(self, errand: Errand) -> Sent:
        """One HTTP call to a provider. Cancelled, it is aborted, and nobody can tell what came of it."""
        last: Sent = NotSent("no_gateway", retry_after_s=1.0)
        for gateway in self._in_turn():
            last = await self._errand(gateway, errand)
            if not isinstance(last, NotSent) or last.reason not in _BUSY:
                return last
        return last

    async def _call(
        self, gateway: _Gateway, call: ModelCall, path: str, body: bytes, timeout_s: float
    ) -> InferenceAnswer:
        head = b"POST %b HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n%b"
        answer = await gateway.ask(head % (path.encode(), call_line(call)), body, timeout_s)
        if isinstance(answer, NoAnswer):
            attempts = call.attempts_before + _ATTEMPTS_OF_A_CALL * answer.is_sent
            return _unavailable(attempts, is_sent=answer.is_sent)
        try:
            outcome = read_outcome(answer.headers)
        except ValueError:  # the transport's own refusal, before anything else
            outcome = CallOutcome(call.attempts_before)
        if answer.status != 200:
            return _failed(answer, outcome)
        return InferenceAnswer(
            200,
            answer.body,
            outcome.attempts,
            outcome.is_sent,
            usage=outcome.usage,
            charge_nanos=outcome.charge_nanos,
        )

    async def _errand(self, gateway: _Gateway, errand: Errand) -> Sent:
        head = b"POST /errand HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/msgpack\r\n"
        answer = await gateway.ask(head, encode_errand(errand), errand.timeout_s + _ERRAND_SLACK_S)
        if isinstance(answer, NoAnswer):
            return Ambiguous("gateway_lost") if answer.is_sent else NotSent("gateway_not_ready", retry_after_s=1.0)
        try:
            return decode_sent(answer.body)
        except ValueError:  # the transport's own refusal
            return NotSent("invalid" if answer.status < 500 else "gateway_busy")

    def _in_turn(self) -> Iterator[_Gateway]:
        """Each gateway once: those that could be reached first, and of them the one with the fewest calls."""
        now_s = self._loop.time()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            found = {str(path) for path in self._run_dir.glob(_SOCKETS)}
            for path in found - self._gateways.keys():
                self._gateways[path] = _Gateway(path)
            for path in [path for path, known in self._gateways.items() if path not in found and not known.in_flight]:
                closing = self._loop.create_task(self._gateways.pop(path).pool.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        yield from sorted(self._gateways.values(), key=lambda each: (each.is_away, each.in_flight, each.asked))


class _Gateway:
    """One socket."""

    def __init__(self, path: str) -> None:
        self.pool = Pool(Origin(unix_path=path), limits=ClientLimits(idle_connections=128), on_bug=report_bug)
        self.in_flight = 0
        self.asked = 0
        self.is_away = False

    async def ask(self, head: bytes, body: bytes, timeout_s: float) -> WholeAnswer | NoAnswer:
        self.in_flight += 1
        self.asked += 1
        timeouts = CallTimeouts(connect_s=_CONNECT_S, first_byte_s=None, idle_s=timeout_s, total_s=timeout_s)
        try:
            answer = await ask(self.pool, head, body, timeouts, body_bytes_max=_ANSWER_BYTES_MAX)
        finally:
            self.in_flight -= 1
        self.is_away = isinstance(answer, NoAnswer) and not answer.is_sent
        return answer


def _unavailable(attempts: int, *, is_sent: bool) -> InferenceAnswer:
    """No gateway answered."""
    code = ErrorCode.SERVICE_UNAVAILABLE
    return InferenceAnswer(
        code.status, b"", attempts, is_sent, code=code.name, is_retryable=code.is_retryable, retry_after_s=1.0
    )


def _failed(answer: WholeAnswer, outcome: CallOutcome) -> InferenceAnswer:
    try:
        error = _decode_envelope(answer.body).error
    except ValueError:
        error = _Error()
    after = answer.headers.get(b"retry-after", b"")
    return InferenceAnswer(
        answer.status,
        answer.body,
        outcome.attempts,
        outcome.is_sent,
        code=error.code,
        is_retryable=error.retryable,
        retry_after_s=float(after) if after.isdigit() else None,
    )
