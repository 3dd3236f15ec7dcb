"""The anthropic kind: providers that speak Anthropic's Messages over HTTP with a key in a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers import anthropic_build
from waypost.providers.anthropic_call import as_it_came, fit_thinking
from waypost.providers.anthropic_fields import (
    ABSENT,
    MESSAGE_FIELDS,
    Block,
    arguments_of,
    failure_of_document,
    finish_reason_of,
    hidden_signature,
    shown_signature,
    usage_of,
)
from waypost.providers.anthropic_stream import AnthropicStream
from waypost.providers.error_map import ERROR_BYTES_MAX, decode_error, retry_after_s
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target, UpstreamError
from waypost.providers.openai import change_fields
from waypost.providers.openai_fields import is_error
from waypost.wire.anthropic_messages import NAME, VERSIONS
from waypost.wire.anthropic_messages_citations import citations_of
from waypost.wire.canonical import Block as Said
from waypost.wire.canonical import Completion, TextBlock, ThinkingBlock, ToolCall, Usage, choice_of
from waypost.wire.conversation import Conversation
from waypost.wire.formats import conversation_of
from waypost.wire.request import ChatRequest

COUNTED_EVERY = 32
"""Of so many answers one is read a second time, to count its fields outside the closed set."""


class _Answer(msgspec.Struct, gc=False):
    type: str = ""
    id: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Anthropic:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ("_answers",)
    format = NAME

    def __init__(self) -> None:
        self._answers = 0

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        return anthropic_build.losses(conversation)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=_head(target))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        asked = request.output_tokens_max
        bounds = [bound for bound in (asked, output_tokens_max) if bound is not None]
        max_tokens = min(bounds, default=anthropic_build.MAX_TOKENS_DEFAULT)  # the format does not do without one
        head = target.head or _head(target)
        if request.format == NAME:
            fields = as_it_came(request)
            head += request.upstream_headers
        else:
            fields = anthropic_build.build(conversation_of(request), request.around, target.upstream_model, max_tokens)
            if request.is_stream:
                fields["stream"] = msgspec.Raw(b"true")
        fields["model"] = msgspec.Raw(_encode(target.upstream_model))
        fields["max_tokens"] = msgspec.Raw(b"%d" % max_tokens)
        fit_thinking(fields, max_tokens)
        if target.changes is not None:
            change_fields(fields, target.changes)
        return head, _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002  other kinds say there what the body leaves out
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        rules = () if target is None else target.error_rules
        self._answers += 1
        try:
            answer = _decode_answer(body)
            if answer.type == "error" or (answer.error is not ABSENT and is_error(answer.error)):
                raise UpstreamError(failure_of_document(200, decode_error(body), rules))
            blocks = _blocks(answer.content or ())
            unknown = len(_decode_object(body).keys() - MESSAGE_FIELDS) if self._answers % COUNTED_EVERY == 1 else 0
        except (ValueError, RecursionError):
            # From the decoder: not JSON, cut off, not UTF-8, of wrong types, out of range or too deep.
            raise BadAnswer from None
        has_calls = any(isinstance(block, ToolCall) for block in blocks)
        reason = finish_reason_of(answer.stop_reason, has_calls=has_calls)
        if answer.content is None or not reason or n != 1:
            raise BadAnswer  # it stopped in the middle, or is no message
        choice = choice_of(0, reason, blocks, stop_sequence=answer.stop_sequence or "")
        return Completion([choice], unknown_fields=unknown, answer_id=answer.id or ""), usage_of(answer.usage)

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        try:
            document = _decode_any(body[:ERROR_BYTES_MAX])
        except (ValueError, RecursionError):
            document = None
        return failure_of_document(status, document, rules, retry_after_s(headers))

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:  # noqa: ARG002  it has one choice
        return AnthropicStream(rules=() if target is None else target.error_rules)


def _head(target: Target) -> bytes:
    # The base URL is the bare origin; with the version in it, as other kinds want it, it is understood too.
    prefix = target.path_prefix.removesuffix("/v1")
    lines = [f"POST {prefix}/v1/messages HTTP/1.1", f"host: {target.host_header.decode()}"]
    if target.credential:
        lines.append(f"x-api-key: {target.credential}")
    if not any(name.lower() == "anthropic-version" for name, _ in target.headers):
        lines.append(f"anthropic-version: {VERSIONS[0].decode()}")
    lines += ["content-type: application/json", "accept-encoding: identity", "user-agent: waypost"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    return "".join([f"{line}\r\n" for line in lines]).encode("ascii")


def _blocks(sent: Sequence[Block]) -> list[Said]:
    """What was said, in order; blocks outside the closed set are dropped."""
    blocks: list[Said] = []
    seen: set[str] = set()
    for block in sent:
        match block.type:
            case "text":
                if block.text:
                    blocks.append(TextBlock(block.text, citations_of(block.citations)))
            case "thinking":
                signature = shown_signature(block.signature) if block.signature else None
                if block.thinking or signature is not None:
                    blocks.append(ThinkingBlock(block.thinking or "", signature))
            case "redacted_thinking":
                blocks.append(ThinkingBlock("", hidden_signature(block.data or "")))
            case "tool_use":
                if not block.name:
                    raise BadAnswer
                # Two calls under one id could not be answered apart: the second is treated as having none.
                given_id = "" if block.id is None or block.id in seen else block.id
                seen.add(given_id)
                blocks.append(ToolCall(given_id, block.name, arguments_of(block.input) or "{}"))
    return blocks
