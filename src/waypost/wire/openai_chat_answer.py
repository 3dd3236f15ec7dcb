"""OpenAI chat completions, what the caller reads: the one way each value of an answer is written.

Whatever a provider sent beyond the closed set of values has no place here, and of what it sent only the values survive:
ids, key order, whitespace, escapes and nulls are ours, so the bytes tell nothing about who answered.
"""

from __future__ import annotations

import msgspec

from waypost.wire.canonical import Audio, Choice, Completion, Signature, ThinkingBlock, Usage
from waypost.wire.identity import AnswerIdentity

encode_value = msgspec.json.Encoder().encode

_AUDIO_KEPT_S = (
    3_600  # that a spoken answer could be named again, as OpenAI says; a provider's own time would tell of it
)
_FINISH_REASONS = {
    "stop": b"stop",
    "stop_sequence": b"stop",
    "pause": b"stop",
    "length": b"length",
    "tool_calls": b"tool_calls",
    "content_filter": b"content_filter",
    "refusal": b"content_filter",
}


def render_completion(completion: Completion, identity: AnswerIdentity, usage: Usage, cost: str) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text."""
    choices = [_render_choice(choice, identity) for choice in completion.choices]
    return b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b,%b%b}' % (
        identity.completion_id.encode(),
        identity.created_s,
        encode_value(identity.model),
        choices[0] if len(choices) == 1 else b",".join(choices),
        render_usage(usage, cost),
        b'"service_tier":"default"',
        render_exposed(completion.exposed) if completion.exposed else b"",
    )


def render_usage(usage: Usage, cost: str) -> bytes:
    prompt_tokens, completion_tokens = usage.all_input_tokens, usage.all_output_tokens
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d,"audio_tokens":%d},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":%d,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0},"cost":"%b"%b}'
        % (
            prompt_tokens,
            completion_tokens,
            prompt_tokens + completion_tokens,
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            usage.audio_input_tokens,
            usage.reasoning_tokens,
            usage.audio_output_tokens,
            cost.encode(),
            b',"cost_estimated":true' if usage.is_estimated else b"",
        )
    )


def render_exposed(fields: dict[str, bytes] | None) -> bytes:
    """`,"name":value` for each, to stand at the end of an object."""
    if not fields:
        return b""
    return b"".join([b",%b:%b" % (encode_value(name), value) for name, value in fields.items()])


def render_audio(audio: Audio, identity: AnswerIdentity, choice: int) -> bytes:
    return b'{"id":"%b","expires_at":%d,"data":%b,"transcript":%b}' % (
        identity.audio_id(audio.id, choice=choice).encode(),
        identity.created_s + _AUDIO_KEPT_S,
        encode_value(audio.data),
        encode_value(audio.transcript),
    )


def shown_finish_reason(reason: str, identity: AnswerIdentity) -> bytes:
    if reason == "tool_calls" and identity.uses_functions:
        return b"function_call"
    return _FINISH_REASONS[reason]


def _render_choice(choice: Choice, identity: AnswerIdentity) -> bytes:
    # OpenAI writes null, not "", where a message is something else than text.
    is_null = not choice.content and (choice.tool_calls or choice.refusal or choice.audio is not None)
    logprobs = choice.logprobs if identity.wants_logprobs else None
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%b%b,"refusal":%b%b%b%b},"logprobs":%b,"finish_reason":"%b"}'
        % (
            choice.index,
            b"null" if is_null else encode_value(choice.content),
            _render_reasoning(choice, identity) if choice.reasoning or choice.blocks else b"",
            encode_value(choice.refusal) if choice.refusal else b"null",
            _render_calls(choice, identity) if choice.tool_calls else b"",
            b',"audio":' + render_audio(choice.audio, identity, choice.index) if choice.audio is not None else b"",
            render_exposed(choice.exposed) if choice.exposed else b"",
            b"null" if logprobs is None else encode_value(logprobs),
            shown_finish_reason(choice.finish_reason, identity),
        )
    )


def render_reasoning_detail(text: str, signature: Signature | None, index: int, identity: AnswerIdentity) -> bytes:
    """A stretch of reasoning with its signature, to be sent back as it is; without text, reasoning that is hidden.

    There is always a signature, sealed, whether or not the provider gave one.
    """
    sealed = identity.sealed(signature).encode()
    if not text:
        return b'{"type":"reasoning.encrypted","data":"%b","index":%d}' % (sealed, index)
    return b'{"type":"reasoning.text","text":%b,"signature":"%b","index":%d}' % (encode_value(text), sealed, index)


def _render_reasoning(choice: Choice, identity: AnswerIdentity) -> bytes:
    thinking = [block for block in choice.blocks if isinstance(block, ThinkingBlock)]
    if not thinking:
        if not choice.reasoning:
            return b""
        thinking = [ThinkingBlock(choice.reasoning)]
    details = [render_reasoning_detail(each.text, each.signature, at, identity) for at, each in enumerate(thinking)]
    shown = b',"reasoning_content":' + encode_value(choice.reasoning) if choice.reasoning else b""
    return b'%b,"reasoning_details":[%b]' % (shown, b",".join(details))


def _render_calls(choice: Choice, identity: AnswerIdentity) -> bytes:
    if identity.uses_functions:
        call = choice.tool_calls[0]
        return b',"function_call":{"name":%b,"arguments":%b}' % (encode_value(call.name), encode_value(call.arguments))
    rendered = [
        b'{"id":"%b","type":"function","function":{"name":%b,"arguments":%b}}'
        % (
            identity.tool_call_id(call.id, choice=choice.index, index=index).encode(),
            encode_value(call.name),
            encode_value(call.arguments),
        )
        for index, call in enumerate(choice.tool_calls)
    ]
    return b',"tool_calls":[%b]' % b",".join(rendered)
