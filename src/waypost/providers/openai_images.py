"""The openai kinds' other endpoint: image generations, priced by image, by token or by both."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers.error_map import decode_error, error_of, failure_of, read_error, retry_after_s
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target, UpstreamError
from waypost.providers.openai import change_fields, head_of
from waypost.providers.openai_fields import ABSENT, is_error
from waypost.providers.openai_responses_fields import FAILURES
from waypost.providers.withheld import withhold
from waypost.wire.canonical import Choice, Completion, ImageBlock, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.openai_images import IMAGES_MAX, NAME
from waypost.wire.request import ChatRequest

PATH = "/images/generations"
# They always answer in base64, and refuse the field that says so.
_ALWAYS_BASE64 = ("gpt-image", "chatgpt-image")
_BASE64 = msgspec.Raw(b'"b64_json"')
_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"GIF8", "image/gif"),
)


class _Image(msgspec.Struct, gc=False):
    b64_json: str | None = None
    revised_prompt: str | None = None


class _InputDetails(msgspec.Struct, gc=False):
    image_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None


class _Answer(msgspec.Struct, gc=False):
    data: list[_Image] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = ABSENT


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class OpenAIImages:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ()
    format = NAME

    def losses(self, conversation: Conversation) -> tuple[str, ...]:  # noqa: ARG002
        raise AssertionError("no other format asks for images")

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, PATH))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:  # noqa: ARG002
        fields = request.fields.copy()
        fields["model"] = msgspec.Raw(_encode(target.upstream_model))
        fields.pop("stream", None)
        withhold(fields, request.around)
        # An address at the provider would tell whose it is; we make one of the data where it is asked for.
        fields["response_format"] = _BASE64
        if target.upstream_model.startswith(_ALWAYS_BASE64):
            del fields["response_format"]
        if target.changes is not None:
            change_fields(fields, target.changes)
        return target.head or head_of(target, PATH), _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002
        body: bytes,
        *,
        n: int = 1,  # noqa: ARG002  what came is what is billed
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        try:
            answer = _decode_answer(body)
            if answer.error is not ABSENT and is_error(answer.error):
                rules = target.error_rules if target is not None else ()
                told = error_of(200, {"error": decode_error(answer.error)})
                raise UpstreamError(failure_of(told, rules, by_code=FAILURES))
        except (ValueError, RecursionError):
            raise BadAnswer from None
        images = answer.data or ()
        if not 1 <= len(images) <= IMAGES_MAX:
            raise BadAnswer
        choices = [_choice(at, image) for at, image in enumerate(images)]
        return Completion(choices), _usage_of(answer.usage, len(choices))

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        return failure_of(read_error(status, body), rules, retry_after_s(headers), by_code=FAILURES)

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:  # noqa: ARG002
        raise AssertionError("images are not streamed")


def media_type_of(data: str) -> str:
    """Of base64 data, by its first bytes. Raises BadAnswer for what is no image."""
    try:
        begin = base64.b64decode(data[:16], validate=True)
    except ValueError:
        raise BadAnswer from None
    for signature, media_type in _SIGNATURES:
        if begin.startswith(signature):
            return media_type
    raise BadAnswer


def _choice(index: int, image: _Image) -> Choice:
    if not image.b64_json:
        raise BadAnswer  # an address, of which we could give nothing
    block = ImageBlock(media_type_of(image.b64_json), image.b64_json)
    return Choice(index, "stop", image.revised_prompt or "", blocks=(block,))


def _usage_of(sent: _Usage | None, images: int) -> Usage:
    """Images as they came, and the tokens of providers who count them."""
    if sent is None:
        return Usage(images=images)
    details = sent.input_tokens_details
    of_images = (details.image_tokens if details is not None else None) or 0
    return Usage(
        input_tokens=(sent.input_tokens or 0) - of_images,
        image_input_tokens=of_images,
        output_tokens=sent.output_tokens or 0,
        images=images,
    )
