"""OpenAI chat completions, what the caller reads: a closed set of values, and the one way each of them is written.

Whatever a provider sent beyond these fields has no place here, and of what it sent only the values survive: ids, key
order, whitespace, escapes and nulls are ours, so the bytes tell nothing about who answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.crypto import hmac_sha256
from waypost.wire.canonical import Usage

# ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")


class TopLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Logprobs(msgspec.Struct, gc=False):
    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class Audio(msgspec.Struct, gc=False):
    """Spoken output, or a piece of it: base64 data and its transcript."""

    id: str = ""  # as the upstream called it
    data: str = ""
    transcript: str = ""
    expires_at: int = 0


class ToolCall(msgspec.Struct, gc=False):
    """`id` is the upstream's, "" when it gave none; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolCallDelta(msgspec.Struct, gc=False):
    """A piece of a tool call. The first one of an index has the name, and only that one."""

    index: int
    id: str  # as the upstream called it, "" when unknown
    name: str  # "" in every piece but the first
    arguments: str


class Choice(msgspec.Struct, gc=False):
    index: int
    finish_reason: str  # one of FINISH_REASONS
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCall] = ()
    audio: Audio | None = None
    logprobs: Logprobs | None = None
    exposed: dict[str, bytes] | None = None  # JSON values by name, let through at the end of the message


class Completion(msgspec.Struct, gc=False):
    """A whole answer: choices in the order of their indexes. `unknown_fields` is what was dropped, if counted."""

    choices: list[Choice]
    exposed: dict[str, bytes] | None = None
    unknown_fields: int = 0

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of everything said, for an estimate where the provider counted nothing."""
        total = 0
        for choice in self.choices:
            total += len(choice.content.encode()) + len(choice.reasoning.encode()) + len(choice.refusal.encode())
            for call in choice.tool_calls:
                total += len(call.name) + len(call.arguments.encode())
            if choice.audio is not None:
                total += len(choice.audio.data) + len(choice.audio.transcript.encode())
        return total


class Chunk(msgspec.Struct, gc=False):
    """What one event of a stream adds to one choice."""

    index: int
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    audio: Audio | None = None
    logprobs: Logprobs | None = None
    finish_reason: str = ""  # one of FINISH_REASONS, "" while the choice goes on
    exposed: dict[str, bytes] | None = None  # at the end of the delta
    exposed_top: dict[str, bytes] | None = None  # at the end of the chunk object


def has_content(chunk: Chunk) -> bool:
    """Whether a caller would see something of the answer in it: the moment from which failover is over."""
    return bool(
        chunk.content
        or chunk.reasoning
        or chunk.finish_reason
        or chunk.tool_calls
        or chunk.refusal
        or chunk.audio is not None
    )


class AnswerIdentity(msgspec.Struct, frozen=True, gc=False):
    """What is ours in an answer, the same in every chunk of it."""

    completion_id: str  # "chatcmpl-<32 hex>"
    created_s: int
    model: str  # as the caller knows it
    org_id: bytes
    tool_id_secret: bytes
    wants_logprobs: bool = True  # False: log probabilities that nobody asked for are left out
    uses_functions: bool = False  # calls read as the legacy `function_call`

    def tool_call_id(self, upstream_id: str, *, choice: int, index: int) -> str:
        """Ours for the upstream's id: the same one for the same organisation, whenever it is shown again."""
        named = f"given|{upstream_id}" if upstream_id else f"made|{self.completion_id}|{choice}|{index}"
        return "call_" + hmac_sha256(self.tool_id_secret, self.org_id + b"|" + named.encode()).hex()[:24]

    def audio_id(self, upstream_id: str, *, choice: int) -> str:
        named = f"{upstream_id or self.completion_id}|{choice}"
        return "audio_" + hmac_sha256(self.tool_id_secret, self.org_id + b"|audio|" + named.encode()).hex()[:24]


# ── rendering ───────────────────────────────────────────────────────────────────────────────────────────────────────

encode_value = msgspec.json.Encoder().encode


def render_completion(completion: Completion, identity: AnswerIdentity, usage: Usage, cost: str) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text."""
    return b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b,%b%b}' % (
        identity.completion_id.encode(),
        identity.created_s,
        encode_value(identity.model),
        b",".join([_render_choice(choice, identity) for choice in completion.choices]),
        render_usage(usage, cost),
        b'"service_tier":"default"',
        render_exposed(completion.exposed),
    )


def render_usage(usage: Usage, cost: str) -> bytes:
    prompt_tokens = usage.all_input_tokens
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0},"cost":"%b"}'
        % (
            prompt_tokens,
            usage.output_tokens,
            prompt_tokens + usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            usage.reasoning_tokens,
            cost.encode(),
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
        audio.expires_at,
        encode_value(audio.data),
        encode_value(audio.transcript),
    )


def shown_finish_reason(reason: str, identity: AnswerIdentity) -> bytes:
    return b"function_call" if reason == "tool_calls" and identity.uses_functions else reason.encode()


def _render_choice(choice: Choice, identity: AnswerIdentity) -> bytes:
    # OpenAI writes null, not "", where a message is something else than text.
    is_null = not choice.content and (choice.tool_calls or choice.refusal or choice.audio is not None)
    logprobs = choice.logprobs if identity.wants_logprobs else None
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%b%b,"refusal":%b%b%b%b},"logprobs":%b,"finish_reason":"%b"}'
        % (
            choice.index,
            b"null" if is_null else encode_value(choice.content),
            b',"reasoning_content":' + encode_value(choice.reasoning) if choice.reasoning else b"",
            encode_value(choice.refusal) if choice.refusal else b"null",
            _render_calls(choice, identity) if choice.tool_calls else b"",
            b',"audio":' + render_audio(choice.audio, identity, choice.index) if choice.audio is not None else b"",
            render_exposed(choice.exposed),
            b"null" if logprobs is None else encode_value(logprobs),
            shown_finish_reason(choice.finish_reason, identity),
        )
    )


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
