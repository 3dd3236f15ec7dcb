"""Reads a streamed answer of the openai-responses kind: bytes in, chunks of the closed set out.

    response.created … (items: added → deltas → done) … response.completed | response.incomplete
                                                       | response.failed | error

A first event is no success: `response.created` comes before a model was asked. What came in deltas is not read again
from an item that is done, and what did not come in deltas is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from waypost.providers.error_map import decode_error
from waypost.providers.kind import BadAnswer, ErrorRule, UpstreamError
from waypost.providers.openai_fields import ABSENT, is_error
from waypost.providers.openai_responses_fields import (
    KIND,
    SentAnnotation,
    SentItem,
    SentPart,
    SentResponse,
    check_failed,
    citations_of,
    failure_in,
    finish_reason_of,
    reasoning_of,
    signature_of,
    usage_in,
)
from waypost.wire.canonical import Chunk, ToolCallDelta, Usage
from waypost.wire.logprobs import Logprobs, TokenLogprob
from waypost.wire.sse import SseParser, SseTooLarge

CALLS_MAX = 1_024  # tool calls of one answer; a stream that opens more is not an answer
_ENDINGS = ("response.completed", "response.incomplete", "response.failed", "response.done")


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    item: SentItem | None = None
    part: SentPart | None = None
    annotation: SentAnnotation | None = None
    logprobs: list[TokenLogprob] | None = None
    response: SentResponse | None = None
    error: msgspec.Raw = ABSENT
    code: str | None = None
    message: str | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _Place:
    """An item of the answer under way."""

    __slots__ = ("call", "has_arguments", "part", "said")

    def __init__(self) -> None:
        self.said: set[int] = set()  # parts of which something was said
        self.part = -1  # the one under way
        self.call = -1  # our index of the call that it is
        self.has_arguments = False


class ResponsesReader:
    """One streamed answer. See `providers.kind.StreamReader`."""

    __slots__ = (
        "_broken_by",
        "_calls",
        "_is_finished",
        "_is_message_begun",
        "_origin",
        "_parser",
        "_places",
        "_rules",
        "_usage",
        "answer_id",
        "is_done",
        "output_bytes",
        "unknown_fields",
    )

    def __init__(self, *, origin: str = KIND, rules: Sequence[ErrorRule] = ()) -> None:
        self._parser = SseParser()
        self._origin = origin
        self._rules = rules
        self._usage = ABSENT  # as sent; read once, when asked for
        self._places: dict[int, _Place] = {}
        self._calls = 0
        self._is_message_begun = False  # so that another part of text is told from the first
        self._is_finished = False
        self._broken_by: UpstreamError | BadAnswer | None = None
        self.answer_id = ""
        self.unknown_fields = 0
        self.output_bytes = 0
        self.is_done = False

    @property
    def usage(self) -> Usage | None:
        return usage_in(self._usage)

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
        if not self._is_finished:
            raise BadAnswer

    def _read_events(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            for event in self._parser.feed(data):
                if self.is_done:
                    break
                _, payload = event if isinstance(event, tuple) else (b"", event)
                if payload == b"[DONE]":  # of relatives, after the end
                    self.is_done = self._is_finished
                elif payload:
                    self._read(_decode_event(payload), chunks)
        except (SseTooLarge, ValueError, RecursionError):
            # A decoder's ValueError or RecursionError: the event is not what the format promises.
            raise BadAnswer from None

    def _read(self, event: _Event, chunks: list[Chunk]) -> None:
        if event.type == "response.output_text.delta":  # what most are
            self._add_text(event, event.delta or "", chunks)
            return
        if event.type == "error" or (event.error is not ABSENT and is_error(event.error)):
            self._fail(event)
        if event.type in _ENDINGS and event.response is not None:
            self._finish(event.response, chunks)
            return
        read = _READERS.get(event.type)
        if read is not None:
            read(self, event, chunks)

    def _take_name(self, event: _Event, _: list[Chunk]) -> None:
        if event.response is not None:
            self.answer_id = event.response.id or ""

    def _fail(self, event: _Event) -> None:
        told: object = {"code": event.code, "message": event.message}
        if event.error is not ABSENT and is_error(event.error):
            told = decode_error(event.error)
        raise UpstreamError(failure_in(told, self._rules))

    def _finish(self, response: SentResponse, chunks: list[Chunk]) -> None:
        if response.usage is not ABSENT:
            self._usage = response.usage
        check_failed(response, self._rules)
        for at, item in enumerate(response.output or ()):
            if at not in self._places:  # relatives that stream nothing but the end
                self._read_done(_Event(output_index=at, item=item), chunks)
        reason = finish_reason_of(response, has_calls=self._calls > 0)
        chunks.append(Chunk(0, finish_reason=reason))
        self._is_finished = self.is_done = True

    def _place(self, event: _Event) -> _Place:
        place = self._places.get(event.output_index)
        if place is None:
            place = self._places[event.output_index] = _Place()
        return place

    # Text and refusals.

    def _add_text(self, event: _Event, text: str, chunks: list[Chunk]) -> None:
        place = self._place(event)
        opens = event.content_index != place.part and self._is_message_begun
        place.part = event.content_index
        place.said.add(event.content_index)
        if text or event.logprobs:
            self.output_bytes += len(text) if text.isascii() else len(text.encode())
            chunk = Chunk(0, text, opens_block=opens)
            if event.logprobs:
                chunk.logprobs = Logprobs(event.logprobs)
            self._is_message_begun = True
            chunks.append(chunk)

    def _add_refusal(self, event: _Event, chunks: list[Chunk]) -> None:
        self._place(event).said.add(event.content_index)
        if event.delta:
            self.output_bytes += len(event.delta.encode())
            chunks.append(Chunk(0, refusal=event.delta))

    def _add_annotation(self, event: _Event, chunks: list[Chunk]) -> None:
        citations = citations_of([event.annotation] if event.annotation is not None else None)
        if citations:
            chunks.append(Chunk(0, citations=citations))

    def _part_done(self, event: _Event, chunks: list[Chunk]) -> None:
        """A part of a message, said whole if nothing of it came in deltas."""
        part = event.part
        if part is None or event.content_index in self._place(event).said:
            return
        if part.refusal:
            event.delta = part.refusal
            self._add_refusal(event, chunks)
        elif part.text and part.type == "output_text":
            event.logprobs = part.logprobs
            self._add_text(event, part.text, chunks)
            self._add_annotations(part, chunks)

    def _add_annotations(self, part: SentPart, chunks: list[Chunk]) -> None:
        citations = citations_of(part.annotations)
        if citations:
            chunks.append(Chunk(0, citations=citations))

    # Reasoning.

    def _add_reasoning(self, event: _Event, chunks: list[Chunk]) -> None:
        place = self._place(event)
        index = event.summary_index or event.content_index
        if event.delta:
            # A new item is a new block; another part of the same one is a paragraph more.
            opens = not place.said and len(self._places) > 1
            text = event.delta if index in place.said or not place.said else f"\n\n{event.delta}"
            place.said.add(index)
            self.output_bytes += len(text.encode())
            chunks.append(Chunk(0, reasoning=text, opens_block=opens))

    # Calls.

    def _add_item(self, event: _Event, chunks: list[Chunk]) -> None:
        place, item = self._place(event), event.item
        if item is None or item.type != "function_call" or place.call >= 0 or not item.name:
            return
        if self._calls >= CALLS_MAX:
            raise BadAnswer
        place.call = self._calls
        self._calls += 1
        self._is_message_begun = False
        arguments = item.arguments or ""
        place.has_arguments = bool(arguments)
        self.output_bytes += len(item.name) + len(arguments.encode())
        given_id = item.call_id or item.id or ""
        chunks.append(Chunk(0, tool_calls=[ToolCallDelta(place.call, given_id, item.name, arguments)]))

    def _add_arguments(self, event: _Event, chunks: list[Chunk]) -> None:
        place = self._place(event)
        if place.call < 0:
            raise BadAnswer  # of a call that nobody named
        self._more_arguments(place, event.delta or "", chunks)

    def _arguments_done(self, event: _Event, chunks: list[Chunk]) -> None:
        place = self._place(event)
        if place.call >= 0 and not place.has_arguments:
            self._more_arguments(place, event.arguments or "", chunks)

    def _more_arguments(self, place: _Place, text: str, chunks: list[Chunk]) -> None:
        if text:
            place.has_arguments = True
            self.output_bytes += len(text.encode())
            chunks.append(Chunk(0, tool_calls=[ToolCallDelta(place.call, "", "", text)]))

    def _read_done(self, event: _Event, chunks: list[Chunk]) -> None:
        """An item is done: what of it has not come yet, and the encryption of reasoning."""
        item, place = event.item, self._place(event)
        if item is None:
            return
        match item.type:
            case "message":
                for index, part in enumerate(item.content or ()):
                    whole = _Event(output_index=event.output_index, content_index=index, part=part)
                    self._part_done(whole, chunks)
            case "reasoning":
                text, signature = reasoning_of(item), signature_of(item, self._origin)
                chunk = Chunk(0, signature=signature)
                if text and not place.said:
                    chunk.reasoning, chunk.opens_block = text, len(self._places) > 1
                    place.said.add(0)
                    self.output_bytes += len(text.encode())
                if chunk.reasoning or signature is not None:
                    chunks.append(chunk)
            case "function_call":
                if not item.name:
                    raise BadAnswer
                self._add_item(event, chunks)
                if not place.has_arguments:
                    self._more_arguments(place, item.arguments or "{}", chunks)


_Read = Callable[[ResponsesReader, _Event, list[Chunk]], None]
_READERS: dict[str, _Read] = {
    "response.created": ResponsesReader._take_name,  # noqa: SLF001  a table of its own methods
    "response.refusal.delta": ResponsesReader._add_refusal,  # noqa: SLF001
    "response.output_text.annotation.added": ResponsesReader._add_annotation,  # noqa: SLF001
    "response.content_part.done": ResponsesReader._part_done,  # noqa: SLF001
    "response.reasoning_summary_text.delta": ResponsesReader._add_reasoning,  # noqa: SLF001
    "response.reasoning_text.delta": ResponsesReader._add_reasoning,  # noqa: SLF001
    "response.output_item.added": ResponsesReader._add_item,  # noqa: SLF001
    "response.function_call_arguments.delta": ResponsesReader._add_arguments,  # noqa: SLF001
    "response.function_call_arguments.done": ResponsesReader._arguments_done,  # noqa: SLF001
    "response.output_item.done": ResponsesReader._read_done,  # noqa: SLF001
}
