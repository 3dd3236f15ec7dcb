"""What an execution made, out of the answer to its call: its `output`, or the images that become files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec

from waypost.wire.media_type import split_data_url


class BadAnswer(Exception):
    """There is nothing in it to deliver."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Chat(msgspec.Struct):
    choices: list[msgspec.Raw]


class _Vectors(msgspec.Struct):
    data: msgspec.Raw


class _Image(msgspec.Struct):
    b64_json: str = ""
    url: str = ""


class _Images(msgspec.Struct):
    data: list[_Image]


class _ChatOutput(msgspec.Struct):
    text: str | None
    choices: list[msgspec.Raw]


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_choice = msgspec.json.Decoder(_Choice).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode
_decode_images = msgspec.json.Decoder(_Images).decode
_encode = msgspec.json.Encoder().encode


def output_of_chat(body: bytes) -> bytes:
    """`{"text", "choices"}`: the choices as OpenAI's, and what the first one says."""
    answer = _decode_chat(body)
    if not answer.choices:
        raise BadAnswer
    return _encode(_ChatOutput(_decode_choice(answer.choices[0]).message.content, answer.choices))


def output_of_vectors(body: bytes) -> bytes:
    """`{"data"}`, as OpenAI's."""
    return _encode(_decode_vectors(body))


def images_of(body: bytes) -> list[bytes]:
    """The bytes of each image. Raises BadAnswer when there is none, or one that is not there."""
    try:
        data = [image.b64_json or split_data_url(image.url)[1] for image in _decode_images(body).data]
        images = [base64.b64decode(each, validate=True) for each in data]
    except binascii.Error:
        raise BadAnswer from None
    if not images or not all(images):
        raise BadAnswer
    return images


OUTPUTS: dict[str, Callable[[bytes], bytes]] = {"chat": output_of_chat, "embedding": output_of_vectors}
"""By modality: those whose output is no file."""
