"""An execution's input as the ordinary call that answers it: the path and the body of an inference endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from waypost.kit.errors import Refusal
from waypost.wire.formats import FORMATS
from waypost.wire.request import Around, ChatRequest

CALLED = {
    # modality → (path, format of the body)
    "chat": ("/v1/chat/completions", "openai_chat"),
    "embedding": ("/v1/embeddings", "openai_embeddings"),
    "image": ("/v1/images/generations", "openai_images"),
}
"""Modalities that are answered in a call. All others are work of providers of jobs."""

SOME_IMAGE = "data:image/png;base64,AA=="  # stands for a file whose bytes nobody has read yet
_SOURCES = ("image", "source_image")
_encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True):
    path: str
    body: bytes


def files_of(modality: str, body_input: Mapping[str, Any]) -> list[str]:
    """The files that its call needs, by the names that they have in it."""
    if modality == "image":
        return [body_input[name] for name in _SOURCES if name in body_input] + list(body_input.get("images", ()))
    if modality != "chat":
        return []
    contents = [message.get("content") for message in body_input["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    urls = [part["image_url"].get("url") for part in parts if isinstance(part.get("image_url"), Mapping)]
    return [url for url in urls if isinstance(url, str)]


def call_of(
    modality: str,
    model: str,
    body_input: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    *,
    is_stream: bool = False,
) -> Call:
    """The call, with each file (`file_<uuid>`) as the `data:` URL that `files` has for it; without `files`, with some
    image in its place. `body_input` was accepted by `validation.check_body`. `is_stream`: of text, the provider is to
    send it as it is made, so that silence ends the call and not its length."""
    path, _ = CALLED[modality]
    match modality:
        case "chat":
            fields = dict(body_input) | {"messages": [_message(each, files) for each in body_input["messages"]]}
            if is_stream:
                fields["stream"] = True
        case "image":
            fields = _image_fields(body_input, files)
        case _:
            fields = dict(body_input)
    return Call(path, _encode({"model": model, **fields}))


def request_of(modality: str, model: str, body_input: Mapping[str, Any]) -> ChatRequest:
    """The same as the gateway will read it. Raises Refusal 400 naming the field of the call that is at fault."""
    _, name = CALLED[modality]
    call = call_of(modality, model, body_input)
    return FORMATS[name].read(call.body, Around(_open_nothing))


def fault_at(refusal: Refusal) -> str:
    """Where that is in the request for the execution."""
    return "input" if refusal.param is None else f"input.{refusal.param}"


def _open_nothing(_: str) -> None:
    return None


def _message(message: Mapping[str, Any], files: Mapping[str, str] | None) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return dict(message) | {"content": [_part(part, files) for part in content]}


def _part(part: Mapping[str, Any], files: Mapping[str, str] | None) -> Mapping[str, Any]:
    image = part.get("image_url")
    if not isinstance(image, Mapping) or not isinstance(image.get("url"), str):
        return part
    return dict(part) | {"image_url": dict(image) | {"url": _shown(image["url"], files)}}


def _image_fields(body_input: Mapping[str, Any], files: Mapping[str, str] | None) -> dict[str, Any]:
    fields = dict(body_input)
    sources = [fields.pop(name) for name in _SOURCES if name in fields]
    sources += fields.pop("images", [])
    if sources:
        parts: list[dict[str, str]] = [{"image": _shown(source, files)} for source in sources]
        fields["contents"] = [{"role": "user", "parts": [{"text": fields.pop("prompt", "")}, *parts]}]
    width, height, aspect = (fields.pop(name, None) for name in ("width", "height", "aspect_ratio"))
    if width is not None or height is not None:
        fields["size"] = f"{width or height}x{height or width}"
    elif aspect is not None:
        fields.setdefault("size", aspect)
    return fields


def _shown(file: str, files: Mapping[str, str] | None) -> str:
    return SOME_IMAGE if files is None else files[file]
