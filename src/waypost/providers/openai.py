"""The openai kind: providers that speak OpenAI's chat completions over HTTP with a bearer key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.providers import openai_build
from waypost.providers.error_map import decode_error, error_of, failure_of, read_error, retry_after_s
from waypost.providers.kind import (
    BadAnswer,
    ErrorRule,
    Failure,
    RequestChanges,
    StreamReader,
    Target,
    UpstreamError,
)
from waypost.providers.openai_fields import (
    ABSENT,
    Said,
    SentAnswer,
    SentChoice,
    arguments_of,
    audio_of,
    calls_of,
    finish_reason_of,
    is_broken,
    is_error,
    is_null,
    logprobs_of,
    text_of,
    unknown_and_exposed,
    usage_of,
)
from waypost.providers.openai_stream import OpenAIStream
from waypost.providers.withheld import withhold
from waypost.wire.canonical import Choice, Completion, ToolCall, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.formats import conversation_of
from waypost.wire.openai_chat import NAME
from waypost.wire.request import ChatRequest

_ASKS_FOR_USAGE = msgspec.Raw(b'{"include_usage":true}')


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(SentAnswer).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


COUNTED_EVERY = 32
"""Of so many answers one is read a second time, to count its fields outside the closed set."""


class OpenAIChat:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ("_answers",)
    format = NAME

    def __init__(self) -> None:
        self._answers = 0

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        return openai_build.losses(conversation)

    def prepare(self, target: Target) -> Target:
        model = msgspec.Raw(_encode(target.upstream_model))
        return replace(target, head=head_of(target, "/chat/completions"), model=model)

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        if request.format == NAME:
            fields = request.fields.copy()
            if bytes(fields["messages"]).find(b"reasoning_details") >= 0:
                fields["messages"] = _without_details(fields["messages"])
        else:
            fields = openai_build.build(conversation_of(request))
            if request.is_stream:
                fields["stream"] = msgspec.Raw(b"true")
        fields["model"] = target.model or msgspec.Raw(_encode(target.upstream_model))
        if request.is_stream:
            fields["stream_options"] = _stream_options(fields.get("stream_options"))
        if output_tokens_max is not None and (
            request.output_tokens_max is None or request.output_tokens_max > output_tokens_max
        ):
            _bound_output(fields, request.output_tokens_max, output_tokens_max)
        withhold(fields, request.around)
        if target.changes is not None:
            change_fields(fields, target.changes)
        return target.head or head_of(target, "/chat/completions"), _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002  other kinds say there what the body leaves out
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        expose, rules = (target.expose, target.error_rules) if target is not None else ((), ())
        self._answers += 1
        try:
            answer = _decode_answer(body)
            if answer.error is not ABSENT and is_error(answer.error):
                raise UpstreamError(failure_of(error_of(200, {"error": decode_error(answer.error)}), rules))
            choices = [_choice(choice, at) for at, choice in enumerate(answer.choices or ())]
            looks_closer = bool(expose) or self._answers % COUNTED_EVERY == 1
            closer = unknown_and_exposed(body, "message", expose) if looks_closer else None
        except (ValueError, RecursionError):
            # From the decoder: not JSON, cut off, not UTF-8, of wrong types, out of range or too deep.
            raise BadAnswer from None
        completion = Completion(choices, None, 0, text_of(answer.id))
        if closer is not None:
            completion.unknown_fields, completion.exposed, exposed = closer
            for choice, fields in zip(choices, exposed, strict=True):
                choice.exposed = fields
        if n > 1:
            choices.sort(key=_index)
        if len(choices) != n:
            raise BadAnswer  # fewer or more than were asked for
        for at, choice in enumerate(choices):
            if choice.index != at:
                raise BadAnswer
        return completion, usage_of(answer.usage)

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        return failure_of(read_error(status, body), rules, retry_after_s(headers))

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:
        if target is None:
            return OpenAIStream(n=n)
        return OpenAIStream(n=n, expose=target.expose, rules=target.error_rules)


def head_of(target: Target, path: str) -> bytes:
    """The constant head of a call to that path of an API like OpenAI's."""
    query = f"?api-version={target.api_version}" if target.api_version else ""
    lines = [f"POST {target.path_prefix}{path}{query} HTTP/1.1", f"host: {target.host_header.decode()}"]
    if target.credential and target.credential_header:
        lines.append(f"{target.credential_header}: {target.credential}")
    elif target.credential:
        lines.append(f"authorization: Bearer {target.credential}")
    lines += ["content-type: application/json", "accept-encoding: identity", "user-agent: waypost"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    return "".join([f"{line}\r\n" for line in lines]).encode("ascii")


def _bound_output(fields: dict[str, msgspec.Raw], asked: int | None, most: int) -> None:
    """To what the model gives and the hold covers, where the caller asked for more, or for nothing."""
    if asked is None:
        fields["max_completion_tokens"] = msgspec.Raw(b"%d" % most)
    else:
        for name in ("max_completion_tokens", "max_tokens"):
            if name in fields:
                fields[name] = msgspec.Raw(b"%d" % most)


def _stream_options(sent: msgspec.Raw | None) -> msgspec.Raw:
    if sent is None or is_null(sent):
        return _ASKS_FOR_USAGE
    options = _decode_fields(sent)
    options["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(_encode(options))


def _without_details(messages: msgspec.Raw) -> msgspec.Raw:
    """Earlier reasoning as we showed it: a provider of this kind has no use for what we sealed."""
    kept = [_decode_fields(message) for message in _decode_list(messages)]
    for message in kept:
        message.pop("reasoning_details", None)
    return msgspec.Raw(_encode(kept))


def change_fields(fields: dict[str, msgspec.Raw], changes: RequestChanges) -> None:
    """As the deployment is configured: rename, then drop, then set."""
    for name, new_name in changes.rename.items():
        if name in fields:
            fields[new_name] = fields.pop(name)
    for name in changes.drop:
        fields.pop(name, None)
    fields.update(changes.set)


def _choice(sent: SentChoice, position: int) -> Choice:
    said = sent.message
    if sent.finish_reason == "stop" and not said.tool_calls and said.function_call is None:  # nearly always
        calls: Sequence[ToolCall] = ()
        reason = "stop"
    elif is_broken(sent.finish_reason):
        raise UpstreamError(Failure(ErrorCode.GENERATION_FAILED))
    else:
        calls = _tool_calls(said) if said.tool_calls or said.function_call is not None else ()
        reason = finish_reason_of(sent.finish_reason, has_calls=bool(calls))
    if not reason:
        raise BadAnswer  # it stopped in the middle
    if reason == "tool_calls":
        for call in calls:
            call.arguments = call.arguments or "{}"  # as OpenAI writes a call without arguments
    return Choice(
        position if sent.index is None else sent.index,
        reason,
        said.content or "",
        said.reasoning_content or said.reasoning or "",
        said.refusal or "",
        calls,
        None if said.audio is None else audio_of(said.audio),
        None if sent.logprobs is None else logprobs_of(sent.logprobs),
    )


def _tool_calls(said: Said) -> Sequence[ToolCall]:
    calls: list[ToolCall] = []
    seen: set[str] = set()
    for sent in calls_of(said):
        function = sent.function
        if function is None or not function.name:
            raise BadAnswer
        # Two calls under one id could not be answered apart: the second is treated as having none.
        given_id = "" if sent.id is None or sent.id in seen else sent.id
        seen.add(given_id)
        calls.append(ToolCall(given_id, function.name, arguments_of(function)))
    return calls


def _index(choice: Choice) -> int:
    return choice.index
