"""The gemini kind's image models: a conversation whose answer is a picture, by the same endpoint as any other.

Said in other words: pixels become the shape that they have and no size; one picture is made per call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.providers import gemini_build
from waypost.providers.gemini import PLAIN, Gemini, head_of
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target, UpstreamError
from waypost.providers.openai import change_fields
from waypost.wire.canonical import Choice, Completion, ImageBlock, Usage
from waypost.wire.conversation import Conversation, ImageOutput
from waypost.wire.formats import conversation_of
from waypost.wire.request import ChatRequest

SHAPES = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
# 21:9 in its lowest terms; 1792x1024, OpenAI's widest, is as near to 16:9 as their sizes come.
_NEAREST = {"7:3": "21:9", "7:4": "16:9", "4:7": "9:16"}
RESOLUTIONS = ("1K", "2K", "4K")

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class GeminiImages:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ("_gemini",)
    format = "gemini_images"  # nobody's: every request is translated

    def __init__(self) -> None:
        self._gemini = Gemini()

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        lost = list(gemini_build.losses(conversation))
        image = conversation.image or ImageOutput()
        if conversation.n != 1:
            lost.append("n")
        if (image.size or image.aspect) and not _shape(image):
            lost.append("size")
        if image.resolution not in ("", *RESOLUTIONS):
            lost.append("image_size")
        if image.quality:
            lost.append("quality")
        if image.media_type not in ("", "image/png"):
            lost.append("output_format")
        return tuple(lost)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, PLAIN))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        conversation = conversation_of(request)
        fields = gemini_build.build(conversation, target.upstream_model)
        sent = fields.get("generationConfig")
        generation: dict[str, object] = {} if sent is None else dict(_decode_fields(sent))
        generation["responseModalities"] = ["IMAGE"]
        image = conversation.image or ImageOutput()
        config = {"aspectRatio": _shape(image), "imageSize": image.resolution}
        if any(config.values()):
            generation["imageConfig"] = {name: value for name, value in config.items() if value}
        if output_tokens_max is not None:
            generation["maxOutputTokens"] = output_tokens_max
        fields["generationConfig"] = msgspec.Raw(_encode(generation))
        if target.changes is not None:
            change_fields(fields, target.changes)
        return target.head or head_of(target, PLAIN), _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        completion, usage = self._gemini.completion(headers, body, n=n, target=target)
        choices = []
        images = 0
        for choice in completion.choices:
            made = [block for block in choice.blocks if isinstance(block, ImageBlock)]
            images += len(made)
            choices.append(Choice(choice.index, choice.finish_reason, blocks=made))
        if not images:
            if any(choice.finish_reason == "content_filter" for choice in choices):
                raise UpstreamError(Failure(ErrorCode.CONTENT_MODERATION_REJECTED))
            raise BadAnswer  # words where a picture was asked for
        counted = replace(usage or Usage(), images=images)
        return replace(completion, choices=choices), counted

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        return self._gemini.failure(status, headers, body, rules)

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:  # noqa: ARG002
        raise AssertionError("images are not streamed")


def _shape(image: ImageOutput) -> str:
    """Of width and height, "" where there is no such."""
    sides = (image.aspect or image.size.replace("x", ":")).partition(":")
    if not sides[2]:
        return ""
    width, height = int(sides[0]), int(sides[2])
    divisor = gcd(width, height) or 1
    shape = f"{width // divisor}:{height // divisor}"
    return shape if shape in SHAPES else _NEAREST.get(shape, "")
