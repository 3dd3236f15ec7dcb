"""OpenAI's embeddings, the caller's request and what it reads.

    POST /v1/embeddings   {"model", "input", "encoding_format", "dimensions", "user"}

`input` is a text, several, the tokens of one, or the tokens of several.
"""

from __future__ import annotations

import base64
from array import array
from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation, Embedding, Text, Turn
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around, ChatRequest, check_model_name, read_fields

NAME = "openai_embeddings"
MODALITY = "embedding"
INPUTS_MAX = 2_048
DIMENSIONS_MAX = 65_536
_SINGLE_KEYS = ("model", "input", "dimensions")
_ENCODINGS = ("float", "base64")

_Dimensions = Annotated[int, msgspec.Meta(ge=1, le=DIMENSIONS_MAX)]


class _Asked(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: _Dimensions | None = None
    user: str | None = None


# Read elsewhere, or without any effect on an answer.
_KNOWN = frozenset((*_Asked.__struct_fields__, "provider", "models", "encoding_format"))
_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`; its `n` is how many vectors it asks for. Raises Refusal: 400 naming the field at fault."""
    fields, asked, _, _ = read_fields(body, _decode, turns="input", single=_SINGLE_KEYS)
    check_model_name(asked.model)
    if asked.encoding_format not in (None, *_ENCODINGS):
        raise invalid("encoding_format", f"'encoding_format' is none of {', '.join(_ENCODINGS)}.")
    return ChatRequest(
        NAME,
        asked.model,
        is_stream=False,
        include_usage=True,
        n=_count(asked.input),
        output_tokens_max=None,
        fields=fields,
        text_bytes=len(body),
        image_count=0,
        wants_logprobs=False,
        uses_functions=False,
        around=around,
        modality=MODALITY,
    )


def converse(request: ChatRequest) -> Conversation:
    """Each input is a turn."""
    asked = _decode(_encode(request.fields))
    unknown = [name for name, value in request.fields.items() if name not in _KNOWN and bytes(value) != b"null"]
    texts = [asked.input] if isinstance(asked.input, str) else [each for each in asked.input if isinstance(each, str)]
    if len(texts) != request.n:
        unknown.append("input as tokens")
    turns = [Turn("user", [Text(text)]) for text in texts]
    return Conversation([], turns, embedding=Embedding(asked.dimensions), user=asked.user or "", unknown=unknown)


def render_embeddings(
    completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
) -> bytes:
    """The answer as JSON. `cost` is decimal USD text."""
    is_base64 = bytes(request.fields.get("encoding_format", msgspec.Raw(b""))) == b'"base64"'
    vectors = [
        b'{"object":"embedding","index":%d,"embedding":%b}'
        % (index, b'"%b"' % base64.b64encode(vector) if is_base64 else _encode(floats_of(vector)))
        for index, vector in enumerate(completion.vectors)
    ]
    tokens = usage.all_input_tokens
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d,"cost":"%b"}}' % (
        b",".join(vectors),
        _encode(identity.model),
        tokens,
        tokens,
        cost.encode(),
    )


def floats_of(vector: bytes) -> list[float]:
    """A vector's numbers; it is kept as little-endian 32-bit floats."""
    numbers = array("f")
    numbers.frombytes(vector)
    return numbers.tolist()


def _count(sent: str | list[str | int | list[int]]) -> int:
    """How many inputs there are. Raises Refusal for none, for empty ones, and for texts and tokens side by side."""
    if isinstance(sent, str):
        sent = [sent]
    kinds = {type(each) for each in sent}
    if len(kinds) > 1:
        raise invalid("input", "'input' holds texts and tokens side by side: send them apart.")
    if not sent or any(each in ("", []) for each in sent):
        raise invalid("input", "'input' is empty, or holds something empty.")
    if kinds == {int}:
        return 1
    if len(sent) > INPUTS_MAX:
        raise invalid("input", f"'input' holds more than {INPUTS_MAX} inputs.")
    return len(sent)
