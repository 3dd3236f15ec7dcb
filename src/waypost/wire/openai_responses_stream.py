"""OpenAI Responses, streamed: created, in progress, every item from `added` to `done`, then the response once more.

    response.created, response.in_progress
    message     output_item.added → content_part.added → output_text.delta … → output_text.done → content_part.done
                → output_item.done
    call        output_item.added → function_call_arguments.delta … → function_call_arguments.done → output_item.done
    reasoning   output_item.added → reasoning_summary_part.added → reasoning_summary_text.delta … → output_item.done
    response.completed | response.incomplete        (or `error`, and nothing after it)

One item is under way at a time, but for calls: their pieces may come in turns, so each stays open until the end.
"""

from __future__ import annotations

from collections.abc import Iterable

from waypost.kit.errors import Refusal
from waypost.wire.canonical import Chunk, Citation, ImageBlock, Signature, ToolCallDelta, Usage
from waypost.wire.dialects import render_error
from waypost.wire.identity import AnswerIdentity
from waypost.wire.logprobs import TokenLogprob
from waypost.wire.openai_responses_answer import (
    Envelope,
    encode_value,
    is_incomplete,
    item_id,
    of_call,
    render_annotation,
    render_call,
    render_image,
    render_logprobs,
    render_message,
    render_reasoning,
    render_refusal_part,
    render_summary_part,
    render_text_part,
    render_usage,
    shown_status,
)
from waypost.wire.request import ChatRequest
from waypost.wire.sse import EVENTS, HEARTBEAT


class _Part:
    """A part of the message under way. `middle` stands between the sequence number and the delta of each event."""

    __slots__ = ("citations", "index", "is_refusal", "logprobs", "middle", "texts")

    def __init__(self, index: int, middle: bytes, *, is_refusal: bool) -> None:
        self.index = index
        self.middle = middle
        self.is_refusal = is_refusal
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.citations: list[Citation] = []


class _Item:
    """A message, a stretch of reasoning or a call under way."""

    __slots__ = ("call_id", "id", "index", "kind", "name", "part", "parts", "place", "texts")

    def __init__(self, kind: str, index: int, our_id: bytes) -> None:
        self.kind = kind  # "msg" | "rs" | "fc"
        self.index = index
        self.id = our_id
        self.place = b'"item_id":"%b","output_index":%d' % (our_id, index)
        self.parts: list[bytes] = []  # of a message: those that are done
        self.part: _Part | None = None
        self.texts: list[str] = []  # of reasoning, or the arguments of a call
        self.call_id = ""
        self.name = b""


class ResponsesStream:
    """Writes one stream. Constant bytes are made once per part; what is left per token is its JSON text and a join."""

    content_type = EVENTS
    heartbeat = HEARTBEAT
    __slots__ = ("_calls", "_done", "_envelope", "_finish_reason", "_identity", "_item", "_items_begun", "_sequence")

    def __init__(self, request: ChatRequest, identity: AnswerIdentity) -> None:
        self._identity = identity
        self._envelope = Envelope(request, identity)
        self._sequence = 0
        self._items_begun = 0
        self._item: _Item | None = None  # message or reasoning
        self._calls: dict[int, _Item] = {}
        self._done: dict[int, bytes] = {}
        self._finish_reason = "stop"

    def render(self, chunks: Iterable[Chunk]) -> bytes:
        """The events to send now, joined; b"" when there is nothing to show yet."""
        out: list[bytes] = []
        for chunk in chunks:
            if not self._sequence:
                self._begin(out)
            item = self._item
            if chunk.reasoning or chunk.signature is not None:
                self._add_reasoning(chunk, out)
            elif (
                chunk.content
                and item is not None
                and item.part is not None
                and not (chunk.opens_block or item.part.is_refusal or chunk.logprobs or chunk.citations)
            ):
                self._delta(item.part, chunk.content, out)  # a piece of text and nothing else, as most are
            else:
                self._add_said(chunk, out)
            for image in chunk.images:
                self._add_image(image, out)
            for call in chunk.tool_calls:
                self._add_call(call, out)
            if chunk.finish_reason:
                self._finish_reason = chunk.finish_reason
        return b"".join(out)

    def finish(self, usage: Usage, cost: str) -> bytes:
        """The end of a complete answer. `cost` is decimal USD text."""
        out: list[bytes] = []
        if not self._sequence:
            self._begin(out)
        if not self._items_begun:
            self._open_part(self._open_message(out), out, is_refusal=False)
        is_cut = is_incomplete(self._finish_reason)
        self._close_item(out, is_cut=is_cut and not self._calls)
        last = max((call.index for call in self._calls.values()), default=-1)
        for call in self._calls.values():
            self._close_call(call, out, is_cut=is_cut and call.index == last)
        output = b",".join([self._done[index] for index in sorted(self._done)])
        response = self._envelope.ended(self._finish_reason, output, render_usage(usage, cost))
        name = b"response.incomplete" if is_cut else b"response.completed"
        self._event(name, b'"response":' + response, out)
        return b"".join(out)

    def fail(self, refusal: Refusal, request_id: str) -> bytes:
        """The end of an answer that broke. SDKs raise what has a field `error`; the others are the event's own."""
        out: list[bytes] = []
        error = render_error("openai", refusal, request_id)[1:-1]  # without its braces: fields of the event
        own = b'"code":"%b","message":%b,"param":null,' % (refusal.code.name.encode(), encode_value(refusal.message))
        self._event(b"error", own + error, out)
        return b"".join(out)

    # Text and refusals.

    def _add_said(self, chunk: Chunk, out: list[bytes]) -> None:
        tokens: list[TokenLogprob] = []
        if chunk.logprobs is not None and self._identity.wants_logprobs:
            tokens = chunk.logprobs.content or []
        if chunk.content or tokens or chunk.citations:
            part = self._text_part(out, opens=chunk.opens_block and bool(chunk.content))
            if tokens:
                part.logprobs += tokens
                self._delta_with_logprobs(part, chunk.content, tokens, out)
            elif chunk.content:
                self._delta(part, chunk.content, out)
            for citation in chunk.citations:
                self._add_citation(part, citation, out)
        if chunk.refusal:
            self._add_refusal(chunk.refusal, out)

    def _add_refusal(self, text: str, out: list[bytes]) -> None:
        item = self._open_message(out)
        part = item.part
        if part is None or not part.is_refusal:
            part = self._open_part(item, out, is_refusal=True)
        part.texts.append(text)
        shown = b'%b,"content_index":%d,"delta":%b' % (item.place, part.index, encode_value(text))
        self._event(b"response.refusal.delta", shown, out)

    def _text_part(self, out: list[bytes], *, opens: bool) -> _Part:
        item = self._open_message(out)
        if item.part is None or item.part.is_refusal or opens:
            return self._open_part(item, out, is_refusal=False)
        return item.part

    def _delta(self, part: _Part, text: str, out: list[bytes]) -> None:
        part.texts.append(text)
        out += (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
            % self._sequence,
            part.middle,
            encode_value(text),
            b"}\n\n",
        )
        self._sequence += 1

    def _delta_with_logprobs(self, part: _Part, text: str, tokens: list[TokenLogprob], out: list[bytes]) -> None:
        part.texts.append(text)
        middle = part.middle.replace(b'"logprobs":[]', b'"logprobs":' + render_logprobs(tokens, has_bytes=False))
        self._event(b"response.output_text.delta", middle + encode_value(text), out)

    def _add_citation(self, part: _Part, citation: Citation, out: list[bytes]) -> None:
        if citation.url and self._item is not None:
            at = len(part.citations)
            part.citations.append(citation)
            shown = b'%b,"content_index":%d,"annotation_index":%d,"annotation":%b' % (
                self._item.place,
                part.index,
                at,
                render_annotation(citation),
            )
            self._event(b"response.output_text.annotation.added", shown, out)

    def _open_message(self, out: list[bytes]) -> _Item:
        if self._item is not None and self._item.kind == "msg":
            return self._item
        self._close_item(out)
        item = self._item = self._open("msg")
        self._added(item, render_message(item.id, b"in_progress", b""), out)
        return item

    def _open_part(self, item: _Item, out: list[bytes], *, is_refusal: bool) -> _Part:
        self._close_part(item, out)
        index = len(item.parts)
        place = b'%b,"content_index":%d' % (item.place, index)
        part = item.part = _Part(index, place + b',"logprobs":[],"delta":', is_refusal=is_refusal)
        empty = render_refusal_part("") if is_refusal else render_text_part("", (), b"[]")
        self._event(b"response.content_part.added", b'%b,"part":%b' % (place, empty), out)
        return part

    def _close_part(self, item: _Item, out: list[bytes]) -> None:
        part = item.part
        if part is None:
            return
        item.part = None
        text = "".join(part.texts)
        place = b'%b,"content_index":%d' % (item.place, part.index)
        if part.is_refusal:
            whole = render_refusal_part(text)
            self._event(b"response.refusal.done", b'%b,"refusal":%b' % (place, encode_value(text)), out)
        else:
            whole = render_text_part(text, part.citations, render_logprobs(part.logprobs))
            tokens = render_logprobs(part.logprobs, has_bytes=False)
            shown = b'%b,"logprobs":%b,"text":%b' % (place, tokens, encode_value(text))
            self._event(b"response.output_text.done", shown, out)
        item.parts.append(whole)
        self._event(b"response.content_part.done", b'%b,"part":%b' % (place, whole), out)

    # Reasoning, images, calls.

    def _add_reasoning(self, chunk: Chunk, out: list[bytes]) -> None:
        """Reasoning, and what is said after it in the same chunk."""
        item = self._item
        if item is not None and (item.kind != "rs" or (chunk.opens_block and chunk.reasoning)):
            self._close_item(out)
            item = None
        if item is None:
            item = self._item = self._open("rs")
            self._added(item, render_reasoning(item.id, "", ""), out)
        if chunk.reasoning:
            place = item.place + b',"summary_index":0'
            if not item.texts:
                part = b'%b,"part":%b' % (place, render_summary_part(""))
                self._event(b"response.reasoning_summary_part.added", part, out)
            item.texts.append(chunk.reasoning)
            delta = b'%b,"delta":%b' % (place, encode_value(chunk.reasoning))
            self._event(b"response.reasoning_summary_text.delta", delta, out)
        if chunk.signature is not None:
            self._close_item(out, signature=chunk.signature)
        self._add_said(chunk, out)

    def _add_image(self, image: ImageBlock, out: list[bytes]) -> None:
        self._close_item(out)
        item = self._open("ig")
        whole = render_image(item.id, image)
        begun = b'{"id":"%b","type":"image_generation_call","status":"in_progress","result":null}' % item.id
        self._added(item, begun, out)
        self._end(item, whole, out)

    def _add_call(self, piece: ToolCallDelta, out: list[bytes]) -> None:
        call = self._calls.get(piece.index)
        if call is None:
            self._close_item(out)
            if piece.signature is not None:
                self._add_hidden(of_call(piece.signature), out)
            call = self._calls[piece.index] = self._open("fc")
            call.call_id = self._identity.tool_call_id(piece.id, choice=0, index=piece.index)
            call.name = encode_value(piece.name)
            self._added(call, render_call(call.id, b"in_progress", call.call_id, call.name, ""), out)
        if piece.arguments:
            call.texts.append(piece.arguments)
            delta = b'%b,"delta":%b' % (call.place, encode_value(piece.arguments))
            self._event(b"response.function_call_arguments.delta", delta, out)

    def _add_hidden(self, signature: Signature, out: list[bytes]) -> None:
        item = self._item = self._open("rs")
        self._added(item, render_reasoning(item.id, "", ""), out)
        self._close_item(out, signature=signature)

    def _close_call(self, call: _Item, out: list[bytes], *, is_cut: bool) -> None:
        arguments = "".join(call.texts)
        shown = b'%b,"arguments":%b' % (call.place, encode_value(arguments))
        self._event(b"response.function_call_arguments.done", shown, out)
        self._end(call, render_call(call.id, shown_status(is_cut=is_cut), call.call_id, call.name, arguments), out)

    # Items and events.

    def _open(self, kind: str) -> _Item:
        item = _Item(kind, self._items_begun, item_id(self._identity, kind, self._items_begun))
        self._items_begun += 1
        return item

    def _close_item(self, out: list[bytes], *, is_cut: bool = False, signature: Signature | None = None) -> None:
        """Ends the message or the reasoning under way."""
        item, self._item = self._item, None
        if item is None:
            return
        if item.kind == "msg":
            self._close_part(item, out)
            self._end(item, render_message(item.id, shown_status(is_cut=is_cut), b",".join(item.parts)), out)
            return
        text = "".join(item.texts)
        if text:
            place = item.place + b',"summary_index":0'
            self._event(b"response.reasoning_summary_text.done", b'%b,"text":%b' % (place, encode_value(text)), out)
            part = b'%b,"part":%b' % (place, render_summary_part(text))
            self._event(b"response.reasoning_summary_part.done", part, out)
        sealed = "" if signature is None else self._identity.sealed(signature)
        self._end(item, render_reasoning(item.id, text, sealed), out)

    def _added(self, item: _Item, shown: bytes, out: list[bytes]) -> None:
        self._event(b"response.output_item.added", b'"output_index":%d,"item":%b' % (item.index, shown), out)

    def _end(self, item: _Item, whole: bytes, out: list[bytes]) -> None:
        self._done[item.index] = whole
        self._event(b"response.output_item.done", b'"output_index":%d,"item":%b' % (item.index, whole), out)

    def _begin(self, out: list[bytes]) -> None:
        response = b'"response":' + self._envelope.in_progress()
        self._event(b"response.created", response, out)
        self._event(b"response.in_progress", response, out)

    def _event(self, name: bytes, fields: bytes, out: list[bytes]) -> None:
        out.append(b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (name, name, self._sequence, fields))
        self._sequence += 1
