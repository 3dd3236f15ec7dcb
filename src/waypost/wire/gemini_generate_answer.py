"""Gemini generateContent, what the caller reads: the one way each value of an answer is written.

Whatever a provider sent beyond the closed set of values has no place here. A signature stands in our own envelope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from waypost.wire.canonical import (
    Block,
    Choice,
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
from waypost.wire.gemini_thought import hide
from waypost.wire.identity import AnswerIdentity
from waypost.wire.logprobs import Logprobs
from waypost.wire.request import ChatRequest

encode_value = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode

MALFORMED_CALL = b"MALFORMED_FUNCTION_CALL"
_FINISH_REASONS = {
    "stop": b"STOP",
    "stop_sequence": b"STOP",
    "pause": b"STOP",
    "tool_calls": b"STOP",
    "length": b"MAX_TOKENS",
    "content_filter": b"SAFETY",
    "refusal": b"SAFETY",
}


def render_answer(
    completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text."""
    candidates = [_candidate(choice, request, identity) for choice in completion.choices]
    return b'{"candidates":[%b],%b}' % (b",".join(candidates), render_end(identity, usage, cost))


def render_end(identity: AnswerIdentity, usage: Usage, cost: str) -> bytes:
    """What follows the candidates of a complete answer."""
    prompt_tokens, thoughts = usage.all_input_tokens, usage.reasoning_tokens
    return (
        b'"usageMetadata":{"promptTokenCount":%d,"cachedContentTokenCount":%d,"candidatesTokenCount":%d,'
        b'"thoughtsTokenCount":%d,"totalTokenCount":%d,"cost":"%b"},%b'
        % (
            prompt_tokens,
            usage.cache_read_tokens,
            usage.all_output_tokens - thoughts,
            thoughts,
            prompt_tokens + usage.all_output_tokens,
            cost.encode(),
            render_identity(identity),
        )
    )


def render_identity(identity: AnswerIdentity) -> bytes:
    return b'"modelVersion":%b,"responseId":"%b"' % (encode_value(identity.model), identity.completion_id.encode())


def finish_reason_of(reason: str) -> bytes:
    return _FINISH_REASONS[reason]


def _candidate(choice: Choice, request: ChatRequest, identity: AnswerIdentity) -> bytes:
    blocks = blocks_of(choice)
    reason = finish_reason_of(choice.finish_reason)
    parts: list[bytes] = []
    calls = 0
    for block in blocks:
        if isinstance(block, ToolCall):
            part = call_part(block, identity, choice=choice.index, index=calls)
            calls += 1
            if part is None and choice.finish_reason == "tool_calls":
                reason = MALFORMED_CALL
            parts += [part] if part is not None else []
        else:
            parts += _parts(block, request, identity)
    citations = [each for block in blocks if isinstance(block, TextBlock) for each in block.citations]
    return b'{"content":{"parts":[%b],"role":"model"},"finishReason":"%b","index":%d%b%b}' % (
        b",".join(parts),
        reason,
        choice.index,
        render_citations(citations, choice.content),
        render_logprobs(choice.logprobs) if identity.wants_logprobs else b"",
    )


def _parts(block: Block, request: ChatRequest, identity: AnswerIdentity) -> Iterable[bytes]:
    match block:
        case TextBlock() | RefusalBlock():
            yield text_part(block.text)
        case ThinkingBlock(text, signature):
            part = thought_part(text, signature, identity, is_shown=request.shows_reasoning)
            if part:
                yield part
        case ImageBlock(media_type, data):
            yield data_part(media_type, data)


def text_part(text: str) -> bytes:
    return b'{"text":%b}' % encode_value(text)


def thought_part(text: str, signature: Signature | None, identity: AnswerIdentity, *, is_shown: bool) -> bytes:
    """b"" for nothing. The signature of thinking that is not shown stands beside an empty text, as Gemini writes it."""
    if not is_shown and signature is not None:
        signature = hide(text, signature)
    signed = _signed(signature, identity)
    if text and is_shown:
        return b'{"text":%b,"thought":true%b}' % (encode_value(text), signed)
    return b'{"text":""%b}' % signed if signed else b""


def _signed(signature: Signature | None, identity: AnswerIdentity) -> bytes:
    return b"" if signature is None else b',"thoughtSignature":"%b"' % identity.sealed(signature).encode()


def data_part(media_type: str, data: str) -> bytes:
    return b'{"inlineData":{"mimeType":%b,"data":%b}}' % (encode_value(media_type), encode_value(data))


def call_part(call: ToolCall, identity: AnswerIdentity, *, choice: int, index: int) -> bytes | None:
    """None when the arguments are no JSON object: this format has no way to say them."""
    try:
        arguments = _decode_any(call.arguments or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    our_id = identity.tool_call_id(call.id, choice=choice, index=index)
    return b'{"functionCall":{"id":"%b","name":%b,"args":%b}%b}' % (
        our_id.encode(),
        encode_value(call.name),
        encode_value(arguments),
        _signed(call.signature, identity),
    )


def render_citations(citations: Sequence[Citation], text: str) -> bytes:
    """`,"citationMetadata":…`, with places in bytes of the answer's text, where they are known and the text is."""
    if not citations:
        return b""
    sources: list[dict[str, object]] = []
    for citation in citations:
        source: dict[str, object] = {}
        if citation.text_start >= 0 and text:
            source["startIndex"] = len(text[: citation.text_start].encode())
            source["endIndex"] = len(text[: citation.text_end].encode())
        if citation.url:
            source["uri"] = citation.url
        if citation.title:
            source["title"] = citation.title
        sources.append(source)
    return b',"citationMetadata":{"citationSources":%b}' % encode_value(sources)


def render_logprobs(logprobs: Logprobs | None) -> bytes:
    """`,"avgLogprobs":…,"logprobsResult":…`; nothing where there are none."""
    tokens = logprobs.content if logprobs is not None else None
    if not tokens:
        return b""
    total = sum(each.logprob for each in tokens)
    result = {
        "topCandidates": [
            {"candidates": [{"token": top.token, "logProbability": top.logprob} for top in each.top_logprobs]}
            for each in tokens
        ],
        "chosenCandidates": [{"token": each.token, "logProbability": each.logprob} for each in tokens],
        "logProbabilitySum": total,
    }
    return b',"avgLogprobs":%b,"logprobsResult":%b' % (encode_value(total / len(tokens)), encode_value(result))
