"""Gemini's embedContent and batchEmbedContents, the caller's request and what it reads.

POST /v1beta/models/{slug}:embedContent        {"content", "taskType", "title", "outputDimensionality"}
POST /v1beta/models/{slug}:batchEmbedContents  {"requests": [the same, …]}
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from waypost.kit.errors import invalid
from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation, Embedding, Text, Turn
from waypost.wire.gemini_generate_answer import render_end
from waypost.wire.gemini_spelling import CONTENT, Shape
from waypost.wire.identity import AnswerIdentity
from waypost.wire.openai_embeddings import DIMENSIONS_MAX, INPUTS_MAX, MODALITY, floats_of
from waypost.wire.request import Around, ChatRequest, check_model_name, read_fields, refuse_value

NAME = "gemini_embed"
_SINGLE_KEYS = ("content", "requests")


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _Content(msgspec.Struct, gc=False):
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]


class _Request(msgspec.Struct, rename="camel", gc=False):
    content: _Content
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: Annotated[int, msgspec.Meta(ge=1, le=DIMENSIONS_MAX)] | None = None


class _Batch(msgspec.Struct, gc=False):
    requests: Annotated[list[_Request], msgspec.Meta(min_length=1, max_length=INPUTS_MAX)]


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


_ONE = Shape("model", "taskType", "title", "outputDimensionality", content=CONTENT)
_SHAPE = Shape("model", "taskType", "title", "outputDimensionality", content=CONTENT, requests=_ONE)
_KNOWN = frozenset(("model", *_Request.__struct_encode_fields__))
_OF_THE_BODY = frozenset((*_KNOWN, "requests", "provider", "models"))
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def read_request(body: bytes, around: Around) -> ChatRequest:
    """The request in `body`, its fields as those of a batch in one spelling; its `n` is how many vectors it asks for.
    Raises Refusal: 400 naming the field at fault."""
    fields, _, _, _ = read_fields(body, _decode_object, turns="requests", single=_SINGLE_KEYS)
    check_model_name(around.path_model)
    try:
        sent = _SHAPE.respell(_decode_any(_encode(fields)))
    except ValueError:
        raise invalid(None, "The body holds a number that is out of range.") from None
    assert isinstance(sent, dict)
    is_batch = sent.get("requests") is not None
    requests = sent.pop("requests") if is_batch else [{name: sent.pop(name) for name in list(sent) if name in _KNOWN}]
    try:
        asked = msgspec.convert({"requests": requests}, _Batch).requests
    except msgspec.ValidationError as error:
        refuse_value(error)
    for at, each in enumerate(asked):
        if any(part.text is None for part in each.content.parts):
            place = f"requests[{at}].content" if is_batch else "content"
            raise invalid(place, f"'{place}' holds something else than text.")
    rest = {name: msgspec.Raw(_encode(value)) for name, value in sent.items()}
    return ChatRequest(
        NAME,
        around.path_model,
        is_stream=False,
        include_usage=True,
        n=len(asked),
        output_tokens_max=None,
        fields={**rest, "requests": msgspec.Raw(_encode(requests))},
        text_bytes=len(body),
        image_count=0,
        wants_logprobs=False,
        uses_functions=False,
        around=around,
        modality=MODALITY,
        is_array=is_batch,
    )


def converse(request: ChatRequest) -> Conversation:
    """Each request is a turn. What they say differently from each other has no place."""
    sent = _decode_any(request.fields["requests"])
    asked = msgspec.convert({"requests": sent}, _Batch).requests
    unknown = [name for name in request.fields if name not in _OF_THE_BODY]
    unknown += [f"requests[{at}].{name}" for at, each in enumerate(sent) for name in each if name not in _KNOWN]
    first = asked[0]
    wanted = Embedding(first.output_dimensionality, first.task_type or "", first.title or "")
    if any(
        (each.output_dimensionality, each.task_type or "", each.title or "")
        != (wanted.dimensions, wanted.task, wanted.title)
        for each in asked
    ):
        unknown.append("requests that differ in more than their content")
    turns = [Turn("user", [Text("\n".join([part.text or "" for part in each.content.parts]))]) for each in asked]
    return Conversation([], turns, embedding=wanted, unknown=unknown)


def render_embeddings(
    completion: Completion, request: ChatRequest, identity: AnswerIdentity, usage: Usage, cost: str
) -> bytes:
    """The answer as JSON. `cost` is decimal USD text."""
    vectors = [b'{"values":%b}' % _encode(floats_of(vector)) for vector in completion.vectors]
    shown = b'"embeddings":[%b]' % b",".join(vectors) if request.is_array else b'"embedding":' + vectors[0]
    return b"{%b,%b}" % (shown, render_end(identity, usage, cost))
