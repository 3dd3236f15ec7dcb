"""Reads a streamed answer of the openai kind: bytes in, chunks of the closed set out.

Per choice a stream goes   (nothing) → content … → finished.   The answer is complete when every choice asked for has
finished; `[DONE]` alone does not make it so, and its absence does not unmake it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import decode_error, error_of, failure_of
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, UpstreamError
from waypost.providers.openai_fields import (
    ABSENT,
    Call,
    NamedAnswer,
    Said,
    StreamedChoice,
    StreamedEvent,
    arguments_of,
    audio_of,
    calls_of,
    finish_reason_of,
    is_broken,
    is_error,
    is_null,
    logprobs_of,
    text_of,
    unknown_and_exposed,
    usage_of,
)
from waypost.wire.canonical import Chunk, ToolCallDelta, Usage, has_content
from waypost.wire.sse import SseParser, SseTooLarge

CALLS_MAX = 1_024  # tool calls of one choice; a stream that opens more is not an answer
PENDING_MAX = 65_536  # characters of arguments kept while a call's name is still to come


_EMPTY = Said()
_decode_name = msgspec.json.Decoder(NamedAnswer).decode
_decode_event = msgspec.json.Decoder(StreamedEvent).decode


class OpenAIStream:
    """One streamed answer. See `providers.kind.StreamReader`."""

    __slots__ = (
        "_broken_by",
        "_calls",
        "_expose",
        "_finished",
        "_is_first",
        "_looks_closer",
        "_n",
        "_parser",
        "_rules",
        "_usage",
        "answer_id",
        "is_done",
        "output_bytes",
        "unknown_fields",
    )

    def __init__(self, *, n: int = 1, expose: Sequence[str] = (), rules: Sequence[ErrorRule] = ()) -> None:
        self._parser = SseParser()
        self._n = n
        self._expose = expose
        self._rules = rules
        self._usage = ABSENT  # as sent; read once, when asked for
        self._calls: dict[int, _Calls] | None = None  # by choice, as also
        self._finished: frozenset[int] = frozenset()
        self._is_first = self._looks_closer = True
        self._broken_by: UpstreamError | BadAnswer | None = None
        self.answer_id = ""
        self.unknown_fields = 0
        self.output_bytes = 0
        self.is_done = False

    @property
    def usage(self) -> Usage | None:
        return usage_of(self._usage)

    @property
    def is_broken(self) -> bool:
        return self._broken_by is not None

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            self._read_events(data, chunks)
        except (UpstreamError, BadAnswer) as error:
            # What came before the error was said, however the provider's bytes were cut into reads.
            self._broken_by = error
            if not chunks:
                raise
        return chunks

    def end(self) -> None:
        if self._broken_by is not None:
            raise self._broken_by
        if len(self._finished) < self._n:
            raise BadAnswer

    def _read_events(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            for event in self._parser.feed(data):
                if self.is_done:
                    break
                if event == b"[DONE]":
                    self.is_done = True
                elif isinstance(event, bytes):
                    self._read(event, chunks)
                else:
                    self._read_named(*event, chunks)
        except (SseTooLarge, ValueError, RecursionError):
            # A decoder's ValueError or RecursionError: the event is not what the format promises.
            raise BadAnswer from None

    def _read_named(self, name: bytes, data: bytes, chunks: list[Chunk]) -> None:
        if name == b"error":
            raise UpstreamError(failure_of(error_of(200, decode_error(data)), self._rules))
        if data == b"[DONE]":
            self.is_done = True
        else:
            self._read(data, chunks)

    def _read(self, data: bytes, chunks: list[Chunk]) -> None:
        if not data:
            return
        event = _decode_event(data)
        if event.error is not ABSENT and is_error(event.error):
            raise UpstreamError(failure_of(error_of(200, {"error": decode_error(event.error)}), self._rules))
        if event.usage is not ABSENT and not is_null(event.usage):
            self._usage = event.usage
        choices = event.choices or ()
        if self._looks_closer:
            self._read_closely(data, choices, chunks)
            return
        for choice in choices:
            chunk = self._chunk(choice)
            if chunk is not None:
                chunks.append(chunk)

    def _read_closely(self, data: bytes, choices: Sequence[StreamedChoice], chunks: list[Chunk]) -> None:
        """The first event, whose unknown fields are counted, and every one of a deployment that exposes some."""
        unknown, exposed_top, exposed = unknown_and_exposed(data, "delta", self._expose)
        if self._is_first:
            self._is_first = False
            self._looks_closer = bool(self._expose)
            self.unknown_fields = unknown
            self.answer_id = text_of(_decode_name(data).id)
        if exposed_top:
            chunks.append(Chunk(0, exposed_top=exposed_top))
        for choice, fields in zip(choices, exposed, strict=True):
            chunk = self._chunk(choice)
            if fields:
                chunk = chunk or Chunk(choice.index)
                chunk.exposed = fields
            if chunk is not None:
                chunks.append(chunk)

    def _chunk(self, choice: StreamedChoice) -> Chunk | None:
        """What a choice's piece adds, None for nothing: a role, an empty delta, a filter's report on the prompt."""
        index = choice.index
        if not 0 <= index < self._n:
            raise BadAnswer
        delta = choice.delta or _EMPTY
        content = delta.content or ""
        if content:
            self.output_bytes += len(content) if content.isascii() else len(content.encode())
        chunk = Chunk(index, content)
        if (  # a piece of text and nothing else, as most are
            content
            and choice.finish_reason is None
            and choice.logprobs is None
            and delta.tool_calls is None
            and delta.reasoning_content is None
            and delta.reasoning is None
            and delta.refusal is None
            and delta.function_call is None
            and delta.audio is None
        ):
            return chunk
        self._read_more(choice, delta, chunk)
        return chunk if has_content(chunk) or chunk.logprobs is not None else None

    def _read_more(self, choice: StreamedChoice, delta: Said, chunk: Chunk) -> None:
        chunk.reasoning = delta.reasoning_content or delta.reasoning or ""
        chunk.refusal = delta.refusal or ""
        chunk.audio = audio_of(delta.audio)
        chunk.logprobs = logprobs_of(choice.logprobs)
        self.output_bytes += len(chunk.reasoning.encode()) + len(chunk.refusal.encode())
        if chunk.audio is not None:
            self.output_bytes += len(chunk.audio.data) + len(chunk.audio.transcript.encode())
        if delta.tool_calls or delta.function_call is not None:
            self._read_calls(delta, chunk)
        if choice.finish_reason is not None:
            self._finish(choice.finish_reason, chunk)

    def _read_calls(self, delta: Said, chunk: Chunk) -> None:
        if self._calls is None:
            self._calls = {}
        calls = self._calls.get(chunk.index)
        if calls is None:
            calls = self._calls[chunk.index] = _Calls()
        chunk.tool_calls = calls.read(calls_of(delta))
        self.output_bytes += sum(len(call.name) + len(call.arguments.encode()) for call in chunk.tool_calls)

    def _finish(self, sent: str, chunk: Chunk) -> None:
        if is_broken(sent):
            raise UpstreamError(Failure(ErrorCode.GENERATION_FAILED))
        calls = None if self._calls is None else self._calls.get(chunk.index)
        reason = finish_reason_of(sent, has_calls=calls is not None)
        if not reason:
            return
        if chunk.index not in self._finished:
            self._finished |= {chunk.index}
            chunk.finish_reason = reason
            if calls is not None:
                chunk.tool_calls = [*chunk.tool_calls, *calls.close(is_whole=reason == "tool_calls")]


class _Call:
    __slots__ = ("has_arguments", "id", "name", "pending", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.id = ""
        self.name = ""
        self.pending = ""  # arguments that came before the name
        self.has_arguments = False


class _Calls:
    """Puts the pieces of one choice's tool calls together. Our index of a call is its order of appearance."""

    __slots__ = ("_by_id", "_by_index", "_calls")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def read(self, pieces: Sequence[Call]) -> list[ToolCallDelta]:
        """What these pieces add. Raises BadAnswer beyond CALLS_MAX."""
        deltas = []
        for position, piece in enumerate(pieces):
            function = piece.function
            name = (function.name if function is not None else None) or ""
            arguments = arguments_of(function) if function is not None else ""
            call = self._call_of(piece, name, position, is_alone=len(pieces) == 1)
            if not call.name:
                call.pending += arguments
                if len(call.pending) > PENDING_MAX:
                    raise BadAnswer
                if not name:
                    continue
                call.name, arguments = name, call.pending
                opening = name
            else:
                opening = ""
            call.has_arguments = call.has_arguments or bool(arguments)
            if opening or arguments:
                deltas.append(ToolCallDelta(call.slot, call.id, opening, arguments))
        return deltas

    def close(self, *, is_whole: bool) -> list[ToolCallDelta]:
        """What is owed at the end: `{}` for a call without arguments. Raises BadAnswer for a call without a name.
        Of an answer that was cut short nothing more is expected."""
        if not is_whole:
            return []
        if not all(call.name for call in self._calls):
            raise BadAnswer
        return [ToolCallDelta(call.slot, call.id, "", "{}") for call in self._calls if not call.has_arguments]

    def _call_of(self, piece: Call, name: str, position: int, *, is_alone: bool) -> _Call:
        given_id, index = piece.id or "", piece.index
        if index is None and not given_id:
            if is_alone:
                # The call under way, unless another function is named.
                last = self._calls[-1] if self._calls else None
                if last is not None and (not name or name == last.name or not last.name):
                    return last
                position = len(self._calls)
            index = position
        call = self._by_index.get(index) if index is not None else self._by_id.get(given_id)
        if call is not None and name and call.name and given_id and call.id and given_id != call.id:
            call = None  # every call under index 0, told apart by their ids
        if call is None:
            call = self._by_id.get(given_id) or self._open(given_id)
        if given_id and not call.id and not call.name:
            call.id = given_id
            self._by_id[given_id] = call
        # Where a provider leaves the index out at first, it counts from zero.
        self._by_index[call.slot if index is None else index] = call
        return call

    def _open(self, given_id: str) -> _Call:
        if len(self._calls) >= CALLS_MAX:
            raise BadAnswer
        call = _Call(len(self._calls))
        self._calls.append(call)
        if given_id:
            call.id = given_id
            self._by_id[given_id] = call
        return call
