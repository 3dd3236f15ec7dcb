"""OpenAI's image generations, the caller's request and what it reads.

    POST /v1/images/generations   {"model", "prompt", "n", "size", "quality", "response_format", …}

Fields of relatives are known too: a `size` such as "16:9", `image_size` "1K", `mime_type`, and `contents` (turns of
text and images) instead of a prompt. Nothing is stored, so the address of an image, where one is asked for, is a
`data:` URL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.canonical import Completion, ImageBlock, Usage
from waypost.wire.conversation import Conversation, ImageOutput, Media, Part, Text, Turn
from waypost.wire.identity import AnswerIdentity
from waypost.wire.media_type import data_url, inline_bytes, split_data_url
from waypost.wire.request import MESSAGES_MAX, Around, ChatRequest, check_model_name, read_fields, refuse_value

NAME = "openai_images"
MODALITY = "image"
IMAGES_MAX = 10  # of one request, as OpenAI has it
PROMPT_CHARS_MAX = 32_000
_SINGLE_KEYS = ("model", "n", "size", "quality", "stream")
_ASPECT = re.compile(r"\d{1,2}:\d{1,2}")
_PIXELS = re.compile(r"\d{2,5}[x*]\d{2,5}")
_FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class _Source(msgspec.Struct, gc=False):
    text: str | None = None
    image: str | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Source]
    role: str = "user"


class _Asked(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=PROMPT_CHARS_MAX)] | None = None
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=IMAGES_MAX)] | None = None
    size: str | None = None
    quality: str | None = None
    response_format: str | None = None
    image_size: str | None = None
    mime_type: str | None = None
    output_format: str | None = None
    response_modalities: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    stream: bool | None = None
    partial_images: int | None = None


# Read elsewhere, or without any effect on an answer.
_NOT_OF_THE_CONVERSATION = frozenset(("provider", "models", "response_format", "response_modalities", "stream"))
_KNOWN = frozenset(_Asked.__struct_fields__) | _NOT_OF_THE_CONVERSATION
_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`. Raises Refusal: 400 naming the field at fault."""
    fields, asked, _, _ = read_fields(body, _decode, turns="contents", single=_SINGLE_KEYS)
    check_model_name(asked.model)
    if (asked.prompt is None) == (asked.contents is None):
        raise invalid("prompt", "Give one of 'prompt' and 'contents'.")
    if asked.stream or asked.partial_images:
        name = "stream" if asked.stream else "partial_images"
        raise invalid(name, f"'{name}' is not available for images: they come when they are whole.")
    if asked.response_format not in (None, "b64_json", "url"):
        raise invalid("response_format", "'response_format' is neither b64_json nor url.")
    if asked.size not in (None, "auto") and not (_ASPECT.fullmatch(asked.size) or _PIXELS.fullmatch(asked.size)):
        raise invalid("size", "'size' is neither auto, a size such as 1024x1024 nor a shape such as 16:9.")
    sources = [source for content in asked.contents or () for source in content.parts]
    images = [source.image for source in sources if source.image]
    for at, image in enumerate(images):
        if not split_data_url(image)[1] and not image.startswith("https://"):
            raise invalid("contents", f"Image {at} of 'contents' is neither a base64 'data:' URL nor an https address.")
    return ChatRequest(
        NAME,
        asked.model,
        False,
        True,
        asked.n or 1,
        None,
        fields,
        len(body) - sum(inline_bytes(image, "contents") for image in images if image.startswith("data:")),
        len(images),
        False,
        False,
        around,
        modality=MODALITY,
    )


def converse(request: ChatRequest) -> Conversation:
    """The request as a conversation whose answer is images. Raises Refusal."""
    try:
        asked = _decode(_encode(request.fields))
    except msgspec.ValidationError as error:
        refuse_value(error)
    turns = [Turn("user", [Text(asked.prompt)])] if asked.prompt is not None else []
    turns += [Turn(_role(content.role), _parts(content.parts)) for content in asked.contents or ()]
    size = "" if asked.size in (None, "auto") else (asked.size or "").replace("*", "x")
    is_aspect = _ASPECT.fullmatch(size) is not None
    return Conversation(
        system=(),
        turns=turns,
        n=asked.n or 1,
        temperature=asked.temperature,
        top_p=asked.top_p,
        user=asked.user or "",
        image=ImageOutput(
            size="" if is_aspect else size,
            aspect=size if is_aspect else "",
            resolution=asked.image_size or "",
            quality="" if asked.quality in (None, "auto") else asked.quality or "",
            media_type=asked.mime_type or _FORMATS.get(asked.output_format or "", ""),
        ),
        unknown=[name for name in request.fields if name not in _KNOWN and bytes(request.fields[name]) != b"null"],
    )


def render_images(
    completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
) -> bytes:
    """The whole answer as JSON. `cost` is decimal USD text."""
    as_url = bytes(request.fields.get("response_format", b"")) == b'"url"'
    data = []
    media_type = ""
    for choice in completion.choices:
        for block in choice.blocks:
            if isinstance(block, ImageBlock):
                media_type = media_type or block.media_type
                data.append(_image(block, choice.content, as_url=as_url))
    shown_format = next((name for name, full in _FORMATS.items() if full == media_type), "")
    return b'{"created":%d,"data":[%b]%b,"usage":%b}' % (
        identity.created_s,
        b",".join(data),
        b',"output_format":"%b"' % shown_format.encode() if shown_format else b"",
        _usage(usage, cost),
    )


def _image(block: ImageBlock, prompt: str, *, as_url: bool) -> bytes:
    shown = data_url(block.media_type, block.data) if as_url else block.data
    revised = b',"revised_prompt":%b' % _encode(prompt) if prompt else b""
    return b'{"%b":%b%b}' % (b"url" if as_url else b"b64_json", _encode(shown), revised)


def _usage(usage: Usage, cost: str) -> bytes:
    return (
        b'{"input_tokens":%d,"input_tokens_details":{"image_tokens":%d,"text_tokens":%d},'
        b'"output_tokens":%d,"total_tokens":%d,"images":%d,"cost":"%b"}'
        % (
            usage.all_input_tokens,
            usage.image_input_tokens,
            usage.all_input_tokens - usage.image_input_tokens,
            usage.all_output_tokens,
            usage.all_input_tokens + usage.all_output_tokens,
            usage.images,
            cost.encode(),
        )
    )


def _role(role: str) -> str:
    return "assistant" if role in ("assistant", "model") else "user"


def _parts(sources: Sequence[_Source]) -> list[Part]:
    parts: list[Part] = []
    for source in sources:
        if source.text:
            parts.append(Text(source.text))
        if source.image:
            media_type, data = split_data_url(source.image)
            parts.append(Media("image", media_type, data, "" if data else source.image))
    return parts
