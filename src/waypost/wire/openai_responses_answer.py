"""OpenAI Responses, what the caller reads: the response object and its items, each written in one way only.

A response says again what was asked. Everything else in it is ours, as in every format: see `openai_chat_answer`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.wire.canonical import (
    Citation,
    Completion,
    ImageBlock,
    RefusalBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    Usage,
    blocks_of,
)
from waypost.wire.identity import AnswerIdentity
from waypost.wire.logprobs import Logprobs, TokenLogprob, TopLogprob
from waypost.wire.openai_responses import SentReasoning, SentText, SentTool
from waypost.wire.openai_responses_conversation import OF_CALL
from waypost.wire.request import ChatRequest

encode_value = msgspec.json.Encoder().encode

_NULL = b"null"
_INCOMPLETE = {"length": b"max_output_tokens", "content_filter": b"content_filter"}
# As OpenAI shows what was not said. The order is ours.
_ECHOED = {
    "instructions": b"null",
    "max_output_tokens": b"null",
    "max_tool_calls": b"null",
    "metadata": b"{}",
    "parallel_tool_calls": b"true",
    "prompt_cache_key": b"null",
    "safety_identifier": b"null",
    "temperature": b"1.0",
    "tool_choice": b'"auto"',
    "top_logprobs": b"0",
    "top_p": b"1.0",
    "truncation": b'"disabled"',
    "user": b"null",
}


_decode_tools = msgspec.json.Decoder(list[SentTool] | None).decode
_decode_text = msgspec.json.Decoder(SentText | None).decode
_decode_reasoning = msgspec.json.Decoder(SentReasoning | None).decode


def render_response(
    completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text."""
    choice = completion.choices[0]
    logprobs = choice.logprobs if identity.wants_logprobs else None
    items = Items(identity)
    blocks = blocks_of(choice)
    for block in blocks:
        items.is_cut = block is blocks[-1] and is_incomplete(choice.finish_reason)
        match block:
            case TextBlock():
                items.add_text(block.text, block.citations, logprobs)
                logprobs = None  # once, with the text that comes first
            case RefusalBlock():
                items.add_refusal(block.text)
            case ThinkingBlock():
                items.add_reasoning(block.text, block.signature)
            case ImageBlock():
                items.add_image(block)
            case ToolCall():
                items.add_call(block)
    output = items.close()
    return Envelope(request, identity).ended(choice.finish_reason, output, render_usage(usage, cost))


def is_incomplete(finish_reason: str) -> bool:
    return finish_reason in _INCOMPLETE


class Envelope:
    """The response object around its output: what is the same at every moment of an answer is made once."""

    __slots__ = ("_created_s", "_echo", "_head")

    def __init__(self, request: ChatRequest, identity: AnswerIdentity) -> None:
        self._head = b'{"id":"%b","object":"response","created_at":%d' % (
            identity.completion_id.encode(),
            identity.created_s,
        )
        self._created_s = identity.created_s
        self._echo = b'"model":%b,%b' % (encode_value(identity.model), _echo(request))

    def in_progress(self) -> bytes:
        return self._render(b"in_progress", _NULL, _NULL, b"", _NULL)

    def ended(self, finish_reason: str, output: bytes, usage: bytes) -> bytes:
        reason = _INCOMPLETE.get(finish_reason)
        if reason is None:
            return self._render(b"completed", b"%d" % self._created_s, _NULL, output, usage)
        return self._render(b"incomplete", _NULL, b'{"reason":"%b"}' % reason, output, usage)

    def _render(self, status: bytes, completed_at: bytes, details: bytes, output: bytes, usage: bytes) -> bytes:
        return b'%b,"status":"%b","completed_at":%b,"background":false,"error":null,%b,"output":[%b],%b,"usage":%b}' % (
            self._head,
            status,
            completed_at,
            b'"incomplete_details":' + details,
            output,
            self._echo,
            usage,
        )


def _echo(request: ChatRequest) -> bytes:
    """The rest of the object: what was asked, as it was asked, and what nobody asked for."""
    fields = request.fields
    said = []
    for name, unsaid in _ECHOED.items():
        sent = fields.get(name)
        said.append(b'"%b":%b' % (name.encode(), unsaid if sent is None or bytes(sent) == _NULL else bytes(sent)))
    tools = _decode_tools(fields.get("tools", b"null")) or []
    text = _decode_text(fields.get("text", b"null")) or SentText()
    reasoning = _decode_reasoning(fields.get("reasoning", b"null")) or SentReasoning()
    text_format = b'{"type":"text"}' if text.format is None else encode_value(text.format)
    said += [
        b'"previous_response_id":null,"service_tier":"default","store":false',
        b'"reasoning":%b' % encode_value(reasoning),
        b'"text":{"format":%b,"verbosity":%b}' % (text_format, encode_value(text.verbosity or "medium")),
        b'"tools":%b' % encode_value(tools),
    ]
    # Line ends of the caller's would end an event.
    return msgspec.json.format(b"{%b}" % b",".join(said), indent=-1)[1:-1]


def render_usage(usage: Usage, cost: str) -> bytes:
    input_tokens = usage.all_input_tokens
    return (
        b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},'
        b'"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d,"cost":"%b"}'
        % (
            input_tokens,
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            usage.all_output_tokens,
            usage.reasoning_tokens,
            input_tokens + usage.all_output_tokens,
            cost.encode(),
        )
    )


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def item_id(identity: AnswerIdentity, prefix: str, index: int) -> bytes:
    """Ours for the item at that place of the answer."""
    return b"%b_%b%04x" % (prefix.encode(), identity.completion_id.partition("_")[2].encode(), index)


def shown_status(*, is_cut: bool) -> bytes:
    return b"incomplete" if is_cut else b"completed"


def render_text_part(text: str, citations: Sequence[Citation], logprobs: bytes) -> bytes:
    annotations = [render_annotation(citation) for citation in citations if citation.url]
    return b'{"type":"output_text","annotations":[%b],"logprobs":%b,"text":%b}' % (
        b",".join(annotations),
        logprobs,
        encode_value(text),
    )


def render_refusal_part(text: str) -> bytes:
    return b'{"type":"refusal","refusal":%b}' % encode_value(text)


def render_message(item: bytes, status: bytes, content: bytes) -> bytes:
    return b'{"id":"%b","type":"message","status":"%b","role":"assistant","content":[%b]}' % (item, status, content)


def render_reasoning(item: bytes, text: str, sealed: str) -> bytes:
    """Nothing is stored, so an item carries whatever is needed to send it back, asked for or not."""
    return b'{"id":"%b","type":"reasoning","summary":[%b]%b}' % (
        item,
        render_summary_part(text) if text else b"",
        b',"encrypted_content":%b' % encode_value(sealed) if sealed else b"",
    )


def render_summary_part(text: str) -> bytes:
    return b'{"type":"summary_text","text":%b}' % encode_value(text)


def render_call(item: bytes, status: bytes, call_id: str, name: bytes, arguments: str) -> bytes:
    return b'{"id":"%b","type":"function_call","status":"%b","arguments":%b,"call_id":"%b","name":%b}' % (
        item,
        status,
        encode_value(arguments),
        call_id.encode(),
        name,
    )


def render_image(item: bytes, image: ImageBlock) -> bytes:
    return b'{"id":"%b","type":"image_generation_call","status":"completed","result":%b}' % (
        item,
        encode_value(image.data),
    )


def render_annotation(citation: Citation) -> bytes:
    return b'{"type":"url_citation","start_index":%d,"end_index":%d,"url":%b,"title":%b}' % (
        max(0, citation.text_start),
        max(0, citation.text_end),
        encode_value(citation.url),
        encode_value(citation.title),
    )


def render_logprobs(tokens: Sequence[TokenLogprob], *, has_bytes: bool = True) -> bytes:
    """The probabilities of a part have the bytes of each token, those of a delta have not."""
    shown = []
    for token in tokens:
        top = [_logprob(other, has_bytes) for other in token.top_logprobs]
        shown.append({**_logprob(token, has_bytes), "top_logprobs": top})
    return encode_value(shown)


def _logprob(sent: TokenLogprob | TopLogprob, has_bytes: bool) -> dict[str, object]:
    shown: dict[str, object] = {"token": sent.token, "logprob": sent.logprob}
    if has_bytes:
        shown["bytes"] = list(sent.token.encode()) if sent.bytes is None else sent.bytes
    return shown


def of_call(signature: Signature) -> Signature:
    """Of a call: travels in a reasoning item before it."""
    return Signature(signature.origin + OF_CALL, signature.value)


class Items:
    """Blocks as the items of a whole answer. What an assistant says in a row is one message of several parts."""

    def __init__(self, identity: AnswerIdentity) -> None:
        self.is_cut = False  # the item under way ends where the answer was cut short
        self._identity = identity
        self._items: list[bytes] = []
        self._parts: list[bytes] = []
        self._calls = 0

    def add_text(self, text: str, citations: Sequence[Citation], logprobs: Logprobs | None) -> None:
        tokens = (logprobs.content if logprobs is not None else None) or ()
        self._parts.append(render_text_part(text, citations, render_logprobs(tokens)))

    def add_refusal(self, text: str) -> None:
        self._parts.append(render_refusal_part(text))

    def add_reasoning(self, text: str, signature: Signature | None) -> None:
        self._end_message()
        sealed = "" if signature is None else self._identity.sealed(signature)
        self._items.append(render_reasoning(self._id("rs"), text, sealed))

    def add_image(self, image: ImageBlock) -> None:
        self._end_message()
        self._items.append(render_image(self._id("ig"), image))

    def add_call(self, call: ToolCall) -> None:
        is_cut, self.is_cut = self.is_cut, False  # what came before is whole
        self._end_message()
        self.is_cut = is_cut
        if call.signature is not None:
            self.add_reasoning("", of_call(call.signature))
        call_id = self._identity.tool_call_id(call.id, choice=0, index=self._calls)
        self._calls += 1
        self._items.append(
            render_call(
                self._id("fc"), shown_status(is_cut=self.is_cut), call_id, encode_value(call.name), call.arguments
            )
        )

    def close(self) -> bytes:
        """Every item, joined. An answer that says nothing has an empty message."""
        if not self._items and not self._parts:
            self.add_text("", (), None)
        self._end_message()
        return b",".join(self._items)

    def _end_message(self) -> None:
        if self._parts:
            status = shown_status(is_cut=self.is_cut)
            self._items.append(render_message(self._id("msg"), status, b",".join(self._parts)))
            self._parts = []

    def _id(self, prefix: str) -> bytes:
        return item_id(self._identity, prefix, len(self._items))
