"""Anthropic Messages, what the caller reads: the one way each value of an answer is written.

Thinking always has a signature, sealed (`wire.envelope`), also where its provider gave none: that there is one tells
nothing. Thinking that nobody may read stands as `redacted_thinking`, or as an empty `thinking` for callers who asked to
have it left out.
"""

from __future__ import annotations

import msgspec

from waypost.wire.anthropic_messages_citations import render_citation
from waypost.wire.anthropic_messages_conversation import CALL_SIGNED
from waypost.wire.canonical import (
    Block,
    Choice,
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
from waypost.wire.media_type import data_url

encode_value = msgspec.json.Encoder().encode
UNREAD_ARGUMENTS = "unparsed_arguments"
"""The field of a tool's input that holds arguments which are no JSON object, as text, so that they are not lost."""

_STOP_REASONS = {
    "stop": b"end_turn",
    "stop_sequence": b"stop_sequence",
    "length": b"max_tokens",
    "tool_calls": b"tool_use",
    "content_filter": b"refusal",
    "refusal": b"refusal",
    "pause": b"pause_turn",
}
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def render_message(completion: Completion, identity: AnswerIdentity, usage: Usage, cost: str, *, shows: bool) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text; `shows` whether the caller wants to read the thinking."""
    choice = completion.choices[0]
    calls = 0
    content: list[bytes] = []
    for block in blocks_of(choice):
        if isinstance(block, ToolCall):
            if block.signature is not None:
                content.append(render_call_signature(block.signature, identity))
            content.append(_render_call(block, calls, identity))
            calls += 1
        else:
            content.append(_render_block(block, identity, shows=shows))
    if choice.audio is not None and choice.audio.transcript:
        content.append(b'{"type":"text","text":%b}' % encode_value(choice.audio.transcript))
    return b'{"id":"%b","type":"message","role":"assistant","model":%b,"content":[%b],%b,"usage":%b%b}' % (
        identity.completion_id.encode(),
        encode_value(identity.model),
        b",".join(content),
        render_stop(_finish_of(choice), choice.stop_sequence),
        render_usage(usage, cost),
        b"".join([b",%b:%b" % (encode_value(name), value) for name, value in (completion.exposed or {}).items()]),
    )


def render_stop(finish_reason: str, stop_sequence: str) -> bytes:
    """`"stop_reason":…,"stop_sequence":…`"""
    sequence = encode_value(stop_sequence) if finish_reason == "stop_sequence" and stop_sequence else b"null"
    return b'"stop_reason":"%b","stop_sequence":%b' % (_STOP_REASONS[finish_reason], sequence)


def render_usage(usage: Usage, cost: str) -> bytes:
    return (
        b'{"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,'
        b'"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d},'
        b'"output_tokens":%d,"output_tokens_details":{"thinking_tokens":%d},"service_tier":"standard","cost":"%b"%b}'
        % (
            usage.input_tokens + usage.audio_input_tokens + usage.image_input_tokens,
            usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens,
            usage.cache_write_1h_tokens,
            usage.all_output_tokens,
            usage.reasoning_tokens,
            cost.encode(),
            b',"cost_estimated":true' if usage.is_estimated else b"",
        )
    )


def render_hidden(signature: Signature | None, identity: AnswerIdentity, *, shows: bool) -> bytes:
    """A block of thinking that has no text."""
    sealed = identity.sealed(signature).encode()
    if shows:
        return b'{"type":"redacted_thinking","data":"%b"}' % sealed
    return b'{"type":"thinking","thinking":"","signature":"%b"}' % sealed


def render_call_signature(signature: Signature, identity: AnswerIdentity) -> bytes:
    """The block before a call that carries the call's signature."""
    marked = Signature(CALL_SIGNED + signature.origin, signature.value)
    return b'{"type":"redacted_thinking","data":"%b"}' % identity.sealed(marked).encode()


def input_of(arguments: str) -> bytes:
    """A call's arguments as a JSON object."""
    sent = arguments.encode()
    try:
        _decode_object(sent)
    except (ValueError, RecursionError):
        return b'{"%b":%b}' % (UNREAD_ARGUMENTS.encode(), encode_value(arguments)) if arguments.strip() else b"{}"
    return msgspec.json.format(sent, indent=-1)  # whitespace would tell whose it is


def shown_image(image: ImageBlock) -> str:
    """An image in the only form that text has for it."""
    return f"![image]({data_url(image.media_type, image.data)})"


def _render_block(block: Block, identity: AnswerIdentity, *, shows: bool) -> bytes:
    match block:
        case TextBlock():
            citations = b",".join([render_citation(citation) for citation in block.citations])
            tail = b',"citations":[%b]' % citations if citations else b""
            return b'{"type":"text","text":%b%b}' % (encode_value(block.text), tail)
        case ThinkingBlock() if block.text and shows:
            sealed = identity.sealed(block.signature).encode()
            return b'{"type":"thinking","thinking":%b,"signature":"%b"}' % (encode_value(block.text), sealed)
        case ThinkingBlock():
            return render_hidden(block.signature, identity, shows=shows)
        case RefusalBlock():
            return b'{"type":"text","text":%b}' % encode_value(block.text)
        case ImageBlock():
            return b'{"type":"text","text":%b}' % encode_value(shown_image(block))
    raise AssertionError("calls are written apart")


def _render_call(call: ToolCall, index: int, identity: AnswerIdentity) -> bytes:
    return b'{"type":"tool_use","id":"%b","name":%b,"input":%b}' % (
        identity.tool_call_id(call.id, choice=0, index=index, prefix="toolu_").encode(),
        encode_value(call.name),
        input_of(call.arguments),
    )


def _finish_of(choice: Choice) -> str:
    """OpenAI tells a refusal by its text alone."""
    return "refusal" if choice.refusal and choice.finish_reason == "stop" else choice.finish_reason
