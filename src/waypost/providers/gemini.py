"""The gemini kind: providers that speak Gemini's generateContent over HTTP with a key in a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from waypost.kit.values import replace
from waypost.providers import gemini_build
from waypost.providers.error_map import ERROR_BYTES_MAX, retry_after_s
from waypost.providers.gemini_build import SKIPS_VALIDATION, sign_first_call, value_of
from waypost.providers.gemini_fields import (
    Candidate,
    Part,
    arguments_of,
    check_answer,
    citations_of,
    decode_answer,
    failure_of_document,
    finish_reason_of,
    indexes_of,
    logprobs_of,
    signature_of,
    usage_of,
)
from waypost.providers.gemini_stream import GeminiStream, count_unknown
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, RequestChanges, StreamReader, Target
from waypost.providers.withheld import withhold
from waypost.wire.canonical import (
    Block,
    Choice,
    Completion,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    Usage,
    choice_of,
)
from waypost.wire.conversation import Conversation
from waypost.wire.formats import conversation_of
from waypost.wire.gemini_generate import NAME
from waypost.wire.gemini_spelling import CONTENT, TOOL_CONFIG
from waypost.wire.gemini_thought import unhide
from waypost.wire.request import ChatRequest

COUNTED_EVERY = 32
"""Of so many answers one is read a second time, to count its fields outside the closed set."""
PLAIN = "generateContent"
_PLAIN, _STREAMED = b":generateContent HTTP/1.1", b":streamGenerateContent?alt=sse HTTP/1.1"
_VERSIONS = ("v1", "v1beta", "v1beta1", "v1alpha")
_COLLECTIONS = ("models/", "tunedModels/", "publishers/", "projects/")

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Gemini:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ("_answers",)
    format = NAME

    def __init__(self) -> None:
        self._answers = 0

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        return gemini_build.losses(conversation)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, PLAIN))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        if request.format == NAME:
            fields = _as_it_came(request)
        else:
            fields = gemini_build.build(conversation_of(request), target.upstream_model)
        asked = request.output_tokens_max
        if output_tokens_max is not None and (asked is None or asked > output_tokens_max):
            # What the caller asked for stands, unless it is more than the model gives and the hold covers.
            sent = fields.get("generationConfig")
            generation = {} if sent is None else _decode_fields(sent)
            generation["maxOutputTokens"] = msgspec.Raw(b"%d" % output_tokens_max)
            fields["generationConfig"] = msgspec.Raw(_encode(generation))
        if target.changes is not None:
            _change(fields, target.changes)
        head = target.head or head_of(target, PLAIN)
        return head.replace(_PLAIN, _STREAMED, 1) if request.is_stream else head, _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002  other kinds say there what the body leaves out
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        self._answers += 1
        try:
            answer = decode_answer(body)
            check_answer(answer, () if target is None else target.error_rules)
            candidates = answer.candidates or ()
            choices = [_choice(each, index) for each, index in zip(candidates, indexes_of(candidates), strict=True)]
            unknown = count_unknown(body) if self._answers % COUNTED_EVERY == 1 else 0
        except (ValueError, RecursionError):
            # From the decoder: not JSON, cut off, not UTF-8, of wrong types, out of range or too deep.
            raise BadAnswer from None
        choices.sort(key=lambda choice: choice.index)
        if [choice.index for choice in choices] != list(range(n)):
            raise BadAnswer  # fewer, more or other candidates than were asked for
        completion = Completion(choices, unknown_fields=unknown, answer_id=answer.response_id or "")
        return completion, usage_of(answer.usage_metadata)

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        try:
            document = _decode_any(body[:ERROR_BYTES_MAX])
        except (ValueError, RecursionError):
            document = None
        return failure_of_document(status, document, rules, retry_after_s(headers))

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:
        return GeminiStream(n=n, rules=() if target is None else target.error_rules)


def name_of(target: Target) -> str:
    """The upstream model as the format names it: `models/…`."""
    name = target.upstream_model
    return name if name.startswith(_COLLECTIONS) else f"models/{name}"


def head_of(target: Target, verb: str) -> bytes:
    """The head of calls of this verb. Raises ValueError for a model's name that would change the path."""
    segments = name_of(target).split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("the upstream model's name cannot stand in a path")
    escaped = "/".join([quote(segment, safe="") for segment in segments])
    prefix = target.path_prefix
    if prefix.rpartition("/")[2] not in _VERSIONS:
        prefix += "/v1beta"
    lines = [f"POST {prefix}/{escaped}:{verb} HTTP/1.1", f"host: {target.host_header.decode()}"]
    if target.credential:
        lines.append(f"x-goog-api-key: {target.credential}")
    lines += ["content-type: application/json", "accept-encoding: identity", "user-agent: waypost"]
    lines += [f"{name}: {value}" for name, value in target.headers]
    return "".join([f"{line}\r\n" for line in lines]).encode("ascii")


def _as_it_came(request: ChatRequest) -> dict[str, msgspec.Raw]:
    """The caller's fields, with the signatures in them opened: those of this kind as they were, others left out."""
    fields = request.fields.copy()
    withhold(fields, request.around)
    for name in ("model", "store"):  # the path names the one, and the other is false where nobody says it
        fields.pop(name, None)
    contents = fields["contents"]
    if _may_be_signed(bytes(contents)):
        fields["contents"] = msgspec.Raw(_encode(_with_signatures_opened(_decode_any(contents), request)))
    calling = fields.get("toolConfig")
    if calling is not None and b"stream" in bytes(calling):
        config = TOOL_CONFIG.respell(_decode_any(calling))
        inner = config.get("functionCallingConfig") if isinstance(config, dict) else None
        if isinstance(inner, dict):
            inner.pop("streamFunctionCallArguments", None)  # answers are written with whole calls
        fields["toolConfig"] = msgspec.Raw(_encode(config))
    return fields


def _may_be_signed(contents: bytes) -> bool:
    return b"ignature" in contents or b"unction" in contents or b"\\u00" in contents


def _with_signatures_opened(sent: object, request: ChatRequest) -> object:
    contents = CONTENT.respell(sent, "contents")
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list):
            continue
        for part in parts:
            signature = part.pop("thoughtSignature", None) if isinstance(part, dict) else None
            if isinstance(signature, str) and signature:
                opened = request.around.open_sealed(signature)
                own = None if opened is None else value_of(unhide(opened).signature)
                if own is not None:
                    part["thoughtSignature"] = own
                elif signature == SKIPS_VALIDATION:
                    part["thoughtSignature"] = signature
        sign_first_call(parts)
    return contents


def _change(fields: dict[str, msgspec.Raw], changes: RequestChanges) -> None:
    for name, new_name in changes.rename.items():
        if name in fields:
            fields[new_name] = fields.pop(name)
    for name in changes.drop:
        fields.pop(name, None)
    fields.update(changes.set)


def _choice(sent: Candidate, index: int) -> Choice:
    blocks: list[Block] = []
    for part in (sent.content.parts if sent.content is not None else None) or ():
        _add(blocks, part)
    has_calls = any(isinstance(block, ToolCall) for block in blocks)
    if not sent.finish_reason or sent.finish_reason == "FINISH_REASON_UNSPECIFIED":
        raise BadAnswer  # it stopped in the middle
    reason = finish_reason_of(sent.finish_reason, has_calls=has_calls)
    citations = citations_of(sent)
    if citations:
        text = next((block for block in reversed(blocks) if isinstance(block, TextBlock)), None)
        if text is not None:
            text.citations = citations
    choice = choice_of(index, reason, blocks)
    choice.logprobs = logprobs_of(sent)
    return choice


def _add(blocks: list[Block], part: Part) -> None:
    """A part as a block; text that goes on is one, as in a stream."""
    signature = signature_of(part)
    last = blocks[-1] if blocks else None
    if part.function_call is not None:
        call = part.function_call
        if not call.name:
            raise BadAnswer
        blocks.append(ToolCall(call.id or "", call.name, arguments_of(call), signature))
        return
    if part.thought and (part.text or signature is not None):
        if isinstance(last, ThinkingBlock) and last.signature is None:
            last.text += part.text or ""
            last.signature = signature
        else:
            blocks.append(ThinkingBlock(part.text or "", signature))
        return
    if part.text:
        if isinstance(last, TextBlock):
            last.text += part.text
        else:
            blocks.append(TextBlock(part.text))
    elif part.inline_data is not None and part.inline_data.data:
        blocks.append(ImageBlock(part.inline_data.mime_type or "image/png", part.inline_data.data))
    if signature is not None:
        # It stands beside the last text, and is of what was thought before.
        thought = next((each for each in reversed(blocks) if isinstance(each, ThinkingBlock)), None)
        if thought is not None and thought.signature is None:
            thought.signature = signature
        else:
            blocks.append(ThinkingBlock("", signature))
