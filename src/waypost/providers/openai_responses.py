"""The openai-responses kind: providers that speak OpenAI's Responses over HTTP with a bearer key, storing nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers import openai_responses_build
from waypost.providers.error_map import failure_of, read_error, retry_after_s
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target
from waypost.providers.openai import COUNTED_EVERY, change_fields, head_of
from waypost.providers.openai_responses_fields import (
    FAILURES,
    SentItem,
    SentPart,
    SentResponse,
    check_failed,
    citations_of,
    finish_reason_of,
    origin_of,
    reasoning_of,
    signature_of,
    usage_in,
)
from waypost.providers.openai_responses_stream import ResponsesReader
from waypost.providers.withheld import withhold
from waypost.wire.canonical import Block, Completion, RefusalBlock, TextBlock, ThinkingBlock, ToolCall, Usage, choice_of
from waypost.wire.conversation import Conversation
from waypost.wire.formats import conversation_of
from waypost.wire.logprobs import Logprobs, TokenLogprob
from waypost.wire.openai_responses import NAME
from waypost.wire.request import ChatRequest

_TRUE = msgspec.Raw(b"true")
_KNOWN_FIELDS = frozenset(
    (
        *("id", "object", "created_at", "completed_at", "status", "background", "error", "incomplete_details", "model"),
        *("output", "usage", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls"),
        *("previous_response_id", "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store"),
        *("temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user"),
    )
)

_encode = msgspec.json.Encoder().encode
_decode_response = msgspec.json.Decoder(SentResponse).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class OpenAIResponses:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ("_answers",)
    format = NAME

    def __init__(self) -> None:
        self._answers = 0

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        return openai_responses_build.losses(conversation)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, "/responses"))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        if request.format == NAME:
            fields = openai_responses_build.pass_on(request.fields, origin_of(target), request.around.open_sealed)
        else:
            fields = openai_responses_build.build(conversation_of(request), origin_of(target))
            if request.is_stream:
                fields["stream"] = _TRUE
        fields["model"] = msgspec.Raw(_encode(target.upstream_model))
        asked = request.output_tokens_max
        if output_tokens_max is not None and (asked is None or asked > output_tokens_max):
            fields["max_output_tokens"] = msgspec.Raw(b"%d" % output_tokens_max)
        withhold(fields, request.around)
        if target.changes is not None:
            change_fields(fields, target.changes)
        return target.head or head_of(target, "/responses"), _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002  other kinds say there what the body leaves out
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        assert n == 1, "more than one is a loss"
        self._answers += 1
        try:
            response = _decode_response(body)
            unknown = len(_decode_fields(body).keys() - _KNOWN_FIELDS) if self._answers % COUNTED_EVERY == 1 else 0
            check_failed(response, target.error_rules if target is not None else ())
        except (ValueError, RecursionError):
            # From the decoder: not JSON, cut off, not UTF-8, of wrong types, out of range or too deep.
            raise BadAnswer from None
        usage = usage_in(response.usage)
        if response.output is None or (not response.output and usage is not None and usage.output_tokens):
            raise BadAnswer  # what was said is not there
        blocks, logprobs = _blocks(response.output, origin_of(target))
        has_calls = any(isinstance(block, ToolCall) for block in blocks)
        choice = choice_of(0, finish_reason_of(response, has_calls=has_calls), blocks)
        if logprobs:
            choice.logprobs = Logprobs(logprobs)
        return Completion([choice], unknown_fields=unknown, answer_id=response.id or ""), usage

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        return failure_of(read_error(status, body), rules, retry_after_s(headers), by_code=FAILURES)

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:
        assert n == 1, "more than one is a loss"
        return ResponsesReader(origin=origin_of(target), rules=target.error_rules if target is not None else ())


def _blocks(items: Sequence[SentItem], origin: str) -> tuple[list[Block], list[TokenLogprob]]:
    """What the items say. Items of tools that a provider runs itself are left out: nobody asked for any."""
    blocks: list[Block] = []
    logprobs: list[TokenLogprob] = []
    for item in items:
        match item.type:
            case "message":
                blocks += [_block(part) for part in item.content or ()]
                for part in item.content or ():
                    logprobs += part.logprobs or ()
            case "reasoning":
                signature = signature_of(item, origin)
                text = reasoning_of(item)
                if text or signature is not None:
                    blocks.append(ThinkingBlock(text, signature))
            case "function_call":
                if not item.name:
                    raise BadAnswer
                blocks.append(ToolCall(item.call_id or item.id or "", item.name, item.arguments or "{}"))
    return blocks, logprobs


def _block(part: SentPart) -> Block:
    if part.type == "refusal" or part.refusal:
        return RefusalBlock(part.refusal or "")
    return TextBlock(part.text or "", citations_of(part.annotations))
