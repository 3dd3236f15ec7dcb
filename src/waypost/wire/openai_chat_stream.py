"""OpenAI chat completions, streamed: the one order in which a caller sees an answer, whatever order it came in.

Per choice: the role by itself, then reasoning (each stretch of it once more as a whole, with its signature), content,
refusal and tool calls as they come, empty ones left out. At the end every choice's finish_reason in a chunk of its
own, usage when asked for, `[DONE]`. A tool call opens with its id and name and no arguments; its arguments follow.
"""

from __future__ import annotations

from collections.abc import Iterable

from waypost.kit.errors import Refusal
from waypost.wire.canonical import Chunk, Signature, ToolCallDelta, Usage, has_content
from waypost.wire.dialects import render_error
from waypost.wire.identity import AnswerIdentity
from waypost.wire.logprobs import Logprobs
from waypost.wire.openai_chat_answer import (
    encode_value,
    render_audio,
    render_exposed,
    render_reasoning_detail,
    render_usage,
    shown_finish_reason,
)
from waypost.wire.sse import EVENTS, HEARTBEAT

_DONE = b"data: [DONE]\n\n"
_FIRST_CHOICE = b'{"index":0,"delta":{'


class StreamRenderer:
    """Writes one stream. Constant bytes are made once; what is left per token is its JSON text and a join."""

    content_type = EVENTS
    heartbeat = HEARTBEAT
    __slots__ = (
        "_after_delta",
        "_end",
        "_finish_reasons",
        "_first_head",
        "_has_first",
        "_heads",
        "_identity",
        "_includes_usage",
        "_reasoning",
    )

    def __init__(self, identity: AnswerIdentity, include_usage: bool) -> None:
        self._identity = identity
        self._includes_usage = include_usage
        # Everything up to the fields of the delta. All that most streams have is the first choice.
        self._first_head = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,%b%b' % (
            identity.completion_id.encode(),
            identity.created_s,
            encode_value(identity.model),
            b'"service_tier":"default","choices":[',
            _FIRST_CHOICE,
        )
        self._has_first = False
        self._heads: dict[int, bytes] | None = None  # of the other choices, from the first chunk of each on
        self._end = b"]%b}\n\n" % (b',"usage":null' if include_usage else b"")
        self._after_delta = b'},"logprobs":null,"finish_reason":null}' + self._end
        self._finish_reasons: dict[int, str] | None = None
        self._reasoning: _Reasoning | None = None

    def render(self, chunks: Iterable[Chunk]) -> bytes:
        """The events to send now, joined; b"" when there is nothing to show yet."""
        out: list[bytes] = []
        for chunk in chunks:
            index = chunk.index
            head = self._first_head if index == 0 and self._has_first else self._head_of(index, out)
            if chunk.reasoning or chunk.signature is not None or self._reasoning is not None:
                self._render_reasoning(head, chunk, out)
            logprobs = chunk.logprobs
            if logprobs is not None:
                self._render_with_logprobs(head, chunk, logprobs, out)
            else:
                if chunk.content:
                    out += (head, b'"content":', encode_value(chunk.content), self._after_delta)
                if chunk.refusal:
                    out += (head, b'"refusal":', encode_value(chunk.refusal), self._after_delta)
            if chunk.tool_calls:
                for call in chunk.tool_calls:
                    self._render_call(head, index, call, out)
            if chunk.audio is not None:
                out += (head, b'"audio":', render_audio(chunk.audio, self._identity, index), self._after_delta)
            if chunk.exposed or chunk.exposed_top:
                self._render_exposed(head, chunk, out)
            if chunk.finish_reason:
                self._finish_reasons = {**(self._finish_reasons or {}), index: chunk.finish_reason}
        return b"".join(out)

    def finish(self, usage: Usage, cost: str) -> bytes:
        """The end of a complete answer. `cost` is decimal USD text."""
        out: list[bytes] = []
        for index, finish_reason in sorted((self._finish_reasons or {}).items()):
            head = self._head_of(index, out)
            self._end_stretch(head, index, None, out)
            reason = shown_finish_reason(finish_reason, self._identity)
            out += (head, b'},"logprobs":null,"finish_reason":"', reason, b'"}', self._end)
        if self._includes_usage:
            out += (self._first_head[: -len(_FIRST_CHOICE)], b'],"usage":', render_usage(usage, cost), b"}\n\n")
        out.append(_DONE)
        return b"".join(out)

    def fail(self, refusal: Refusal, request_id: str) -> bytes:
        """The end of an answer that broke: an error event, which SDKs raise, and no `[DONE]`."""
        return b"data: " + render_error("openai", refusal, request_id) + b"\n\n"

    def _head_of(self, index: int, out: list[bytes]) -> bytes:
        """Of a choice; the first time, it opens with its role."""
        if index == 0:
            head = self._first_head
            if self._has_first:
                return head
            self._has_first = True
        else:
            if self._heads is None:
                self._heads = {}
            known = self._heads.get(index)
            if known is not None:
                return known
            head = b'%b{"index":%d,"delta":{' % (self._first_head[: -len(_FIRST_CHOICE)], index)
            self._heads[index] = head
        out += (head, b'"role":"assistant","content":"","refusal":null', self._after_delta)
        return head

    def _render_reasoning(self, head: bytes, chunk: Chunk, out: list[bytes]) -> None:
        """Reasoning, and the end of a stretch of it: at its signature, or where something else begins."""
        index, reasoning = chunk.index, self._reasoning
        if reasoning is None:
            reasoning = self._reasoning = _Reasoning()
        if chunk.opens_block or (not chunk.reasoning and chunk.signature is None and has_content(chunk)):
            self._end_stretch(head, index, None, out)
        if chunk.reasoning:
            out += (head, b'"reasoning_content":', encode_value(chunk.reasoning), self._after_delta)
            reasoning.under_way.setdefault(index, []).append(chunk.reasoning)
        if chunk.signature is not None:
            reasoning.under_way.setdefault(index, [])
            self._end_stretch(head, index, chunk.signature, out)
        elif chunk.reasoning and (chunk.content or chunk.refusal or chunk.tool_calls):
            self._end_stretch(head, index, None, out)

    def _end_stretch(self, head: bytes, index: int, signature: Signature | None, out: list[bytes]) -> None:
        reasoning = self._reasoning
        texts = None if reasoning is None else reasoning.under_way.pop(index, None)
        if reasoning is None or texts is None:
            return
        at = reasoning.ended.get(index, 0)
        reasoning.ended[index] = at + 1
        detail = render_reasoning_detail("".join(texts), signature, at, self._identity)
        out += (head, b'"reasoning_details":[', detail, b"]", self._after_delta)

    def _render_with_logprobs(self, head: bytes, chunk: Chunk, logprobs: Logprobs, out: list[bytes]) -> None:
        after_delta = self._after_delta
        if self._identity.wants_logprobs:
            after_delta = b'},"logprobs":%b,"finish_reason":null}%b' % (encode_value(logprobs), self._end)
        if chunk.refusal:
            # Log probabilities stand with the text they are about, once.
            refusal_end = self._after_delta if chunk.content else after_delta
            out += (head, b'"refusal":', encode_value(chunk.refusal), refusal_end)
        if chunk.content or (self._identity.wants_logprobs and not chunk.refusal):
            # A token may be a part of a character only, and so have a probability but no text.
            out += (head, b'"content":', encode_value(chunk.content), after_delta)

    def _render_call(self, head: bytes, choice: int, call: ToolCallDelta, out: list[bytes]) -> None:
        if self._identity.uses_functions:
            if call.index:
                return  # the legacy field has room for one call
            opening, closing = b'"function_call":{', b"}"
            named = b'"name":%b,"arguments":""'
        else:
            opening, closing = b'"tool_calls":[{"index":%d,' % call.index, b"}}]"
            our_id = self._identity.tool_call_id(call.id, choice=choice, index=call.index) if call.name else ""
            named = b'"id":"%b","type":"function","function":{"name":%%b,"arguments":""' % our_id.encode()
        if call.name:
            out += (head, opening, named % encode_value(call.name), closing, self._after_delta)
        if call.arguments:
            begin = b'"arguments":' if self._identity.uses_functions else b'"function":{"arguments":'
            out += (head, opening, begin, encode_value(call.arguments), closing, self._after_delta)

    def _render_exposed(self, head: bytes, chunk: Chunk, out: list[bytes]) -> None:
        delta = render_exposed(chunk.exposed)[1:]
        top = render_exposed(chunk.exposed_top)
        out += (head, delta, self._after_delta[:-3], top, b"}\n\n")


class _Reasoning:
    """Stretches of it, by choice."""

    __slots__ = ("ended", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[int, list[str]] = {}
        self.ended: dict[int, int] = {}  # how many
