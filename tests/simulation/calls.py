"""A simulated gateway: answers calls of models, refuses them, or is lost with what it was about to answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from random import Random

from tests.simulation.faults import Faults
from waypost.kit.errors import ErrorCode
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.wire.canonical import Usage
from waypost.wire.model_call import ModelCall
from waypost.worker.gateways import InferenceAnswer

CALL_PRICE_NANOS = 5_000_000


class Calls:
    """`worker.executions.Calls`. `meanwhile` is what others do while a call is under way."""

    def __init__(self, dice: Random, faults: Faults, text: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._dice = dice
        self._faults = faults
        self._meanwhile = meanwhile
        self._trouble = dice.choice((0.0, 0.2, 0.6))
        message = {"role": "assistant", "content": text}
        self._answer = json.dumps({"choices": [{"index": 0, "message": message}], "usage": {}}).encode()

    async def call(self, call: ModelCall, path: str, body: bytes, *, timeout_s: float) -> InferenceAnswer:
        assert timeout_s > 0
        self._faults.pass_by("before the call", None)
        attempts = call.attempts_before + 1
        if self._dice.random() < 0.15:
            await self._meanwhile()
        self._faults.pass_by("after the call", None)
        fate = self._dice.random() / self._trouble if self._trouble else 1.0
        if fate < 0.4:
            return _refused(ErrorCode.MODEL_OVERLOADED, attempts)
        if fate < 0.6:
            return _refused(ErrorCode.SERVICE_UNAVAILABLE, attempts)  # lost with its answer
        if fate < 1.0:
            return _refused(ErrorCode.CONTENT_MODERATION_REJECTED, attempts)
        return InferenceAnswer(200, self._answer, attempts, True, Usage(input_tokens=3), CALL_PRICE_NANOS)


class NoFiles:
    """`worker.executions.StoredFiles` for calls that have none."""

    async def as_data_url(self, org_id: bytes, file_id: bytes) -> str:
        raise AssertionError

    async def keep_output(self, execution: AsynchronousExecution, place: int, content: bytes) -> OutputFile:
        raise AssertionError


def _refused(code: ErrorCode, attempts: int) -> InferenceAnswer:
    return InferenceAnswer(code.status, b"{}", attempts, True, code=code.name, is_retryable=code.is_retryable)
