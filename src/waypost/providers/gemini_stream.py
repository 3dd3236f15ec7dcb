"""Reads a streamed answer of the gemini kind: events in, chunks of the closed set out.

An answer is complete when every candidate asked for has a finish reason; the format has no other end. Usage comes with
any event and is a running one: the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.providers.error_map import ERROR_BYTES_MAX
from waypost.providers.gemini_fields import (
    ABSENT,
    ANSWER_FIELDS,
    CANDIDATE_FIELDS,
    PART_FIELDS,
    Candidate,
    Part,
    arguments_of,
    check_answer,
    citations_of,
    decode_answer,
    finish_reason_of,
    indexes_of,
    logprobs_of,
    signature_of,
    usage_of,
)
from waypost.providers.kind import BadAnswer, ErrorRule, UpstreamError
from waypost.wire.canonical import Chunk, ImageBlock, ToolCallDelta, Usage, has_content
from waypost.wire.sse import SseParser, SseTooLarge

CALLS_MAX = 1_024  # of one candidate; a stream that makes more is not an answer
_decode_any = msgspec.json.Decoder().decode


class GeminiStream:
    """One streamed answer. See `providers.kind.StreamReader`."""

    __slots__ = (
        "_broken_by",
        "_calls",
        "_finished",
        "_is_first",
        "_n",
        "_parser",
        "_rules",
        "_thought",
        "_usage",
        "answer_id",
        "is_done",
        "output_bytes",
        "unknown_fields",
    )

    def __init__(self, *, n: int, rules: Sequence[ErrorRule] = ()) -> None:
        self._parser = SseParser()
        self._n = n
        self._rules = rules
        self._usage = ABSENT
        self._calls: dict[int, int] = {}  # how many, by candidate
        self._finished: set[int] = set()
        self._thought: set[int] = set()  # candidates whose thinking was shown
        self._is_first = True
        self._broken_by: UpstreamError | BadAnswer | None = None
        self.answer_id = ""  # the provider's
        self.unknown_fields = 0
        self.output_bytes = 0
        self.is_done = False  # nothing says so but the end of the body

    @property
    def usage(self) -> Usage | None:
        return usage_of(self._usage)

    @property
    def is_broken(self) -> bool:
        return self._broken_by is not None

    def feed(self, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            for event in self._parser.feed(data):
                document = event if isinstance(event, bytes) else event[1]
                if document and document != b"[DONE]":  # a relative's habit
                    self._read(document, chunks)
        except (UpstreamError, BadAnswer) as error:
            # What came before the error was said, however the provider's bytes were cut into reads.
            self._broken_by = error
            if not chunks:
                raise
        except (SseTooLarge, ValueError, RecursionError):
            self._broken_by = BadAnswer()
            if not chunks:
                raise self._broken_by from None
        return chunks

    def end(self) -> None:
        if self._broken_by is not None:
            raise self._broken_by
        if len(self._finished) < self._n:
            raise BadAnswer

    def _read(self, document: bytes, chunks: list[Chunk]) -> None:
        answer = decode_answer(document)
        check_answer(answer, self._rules)
        if self._is_first:
            self._is_first = False
            self.unknown_fields = count_unknown(document)
            self.answer_id = answer.response_id or ""
        if len(answer.usage_metadata):
            self._usage = answer.usage_metadata
        candidates = answer.candidates or ()
        for candidate, index in zip(candidates, indexes_of(candidates), strict=True):
            self._read_candidate(candidate, index, chunks)

    def _read_candidate(self, candidate: Candidate, index: int, chunks: list[Chunk]) -> None:
        if not 0 <= index < self._n:
            raise BadAnswer
        own: list[Chunk] = []
        parts = (candidate.content.parts if candidate.content is not None else None) or ()
        for part in parts:
            own += self._part(part, index)
        last = own[-1] if own else Chunk(index)
        if candidate.logprobs_result is not None:
            first = own[0] if own else last
            first.logprobs = logprobs_of(candidate)
        if candidate.citation_metadata is not None or candidate.grounding_metadata is not None:
            last.citations = citations_of(candidate)
        if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
            if own:
                chunks += own  # said before it is known how it ended
            reason = finish_reason_of(candidate.finish_reason, has_calls=self._calls.get(index, 0) > 0)
            self._finished.add(index)
            last.finish_reason = reason
            if not own:
                chunks.append(last)
            return
        chunks += own or ([last] if has_content(last) or last.logprobs is not None else [])

    def _part(self, part: Part, index: int) -> list[Chunk]:
        """Chunks of one part. A signature beside a text that is no thought is that of thinking which stays hidden.

        Where the thinking was shown it comes too late for its place, which would tell the kind apart: the format gets
        along without it."""
        signature = signature_of(part)
        if part.function_call is not None:
            return [self._call(part, index)]
        said: list[Chunk] = []
        if part.text:
            self.output_bytes += len(part.text) if part.text.isascii() else len(part.text.encode())
            if part.thought:
                self._thought.add(index)
            said.append(Chunk(index, reasoning=part.text) if part.thought else Chunk(index, part.text))
        elif part.inline_data is not None and part.inline_data.data:
            self.output_bytes += len(part.inline_data.data)
            image = ImageBlock(part.inline_data.mime_type or "image/png", part.inline_data.data)
            said.append(Chunk(index, images=[image]))
        if signature is not None:
            if said and part.thought:
                said[-1].signature = signature
            elif part.thought or index not in self._thought:
                said.append(Chunk(index, signature=signature))
        return said

    def _call(self, part: Part, index: int) -> Chunk:
        call = part.function_call
        assert call is not None
        made = self._calls.get(index, 0)
        if not call.name or made >= CALLS_MAX:
            raise BadAnswer
        self._calls[index] = made + 1
        arguments = arguments_of(call)
        self.output_bytes += len(call.name) + len(arguments.encode())
        return Chunk(index, tool_calls=[ToolCallDelta(made, call.id or "", call.name, arguments, signature_of(part))])


def count_unknown(document: bytes) -> int:
    """How many fields of a valid answer are outside the closed set; 0 of one too long to be looked through."""
    if len(document) > ERROR_BYTES_MAX:
        return 0
    decoded = _decode_any(document)
    unknown = len(decoded.keys() - ANSWER_FIELDS)
    for candidate in decoded.get("candidates") or ():
        unknown += len(candidate.keys() - CANDIDATE_FIELDS)
        for part in (candidate.get("content") or {}).get("parts") or ():
            unknown += len(part.keys() - PART_FIELDS)
    return unknown
