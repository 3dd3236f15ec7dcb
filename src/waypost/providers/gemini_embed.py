"""The gemini kind's embeddings endpoint, priced by input tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers.embedding import completion_of, vector_of
from waypost.providers.error_map import ERROR_BYTES_MAX, retry_after_s
from waypost.providers.gemini import head_of, name_of
from waypost.providers.gemini_fields import ABSENT, failure_of_document, usage_of
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target
from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation, Text
from waypost.wire.formats import conversation_of
from waypost.wire.gemini_embed import NAME
from waypost.wire.request import ChatRequest

VERB = "batchEmbedContents"


class _Vector(msgspec.Struct, gc=False):
    values: list[float] | None = None


class _Answer(msgspec.Struct, rename="camel", gc=False):
    embeddings: list[_Vector] | None = None
    usage_metadata: msgspec.Raw = ABSENT


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_any = msgspec.json.Decoder().decode
_decode_requests = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class GeminiEmbed:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ()
    format = NAME

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        return tuple(conversation.unknown)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, VERB))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:  # noqa: ARG002
        if request.format == NAME:
            requests = _decode_requests(request.fields["requests"])
        else:
            requests = _build(conversation_of(request))
        model = msgspec.Raw(_encode(name_of(target)))
        for each in requests:
            each["model"] = model
        return target.head or head_of(target, VERB), _encode({"requests": requests})

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,  # noqa: ARG002
    ) -> tuple[Completion, Usage | None]:
        try:
            answer = _decode_answer(body)
        except (ValueError, RecursionError):
            raise BadAnswer from None
        vectors = [vector_of(each.values) for each in answer.embeddings or ()]
        return completion_of(vectors, n), usage_of(answer.usage_metadata)

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        try:
            document = _decode_any(body[:ERROR_BYTES_MAX])
        except (ValueError, RecursionError):
            document = None
        return failure_of_document(status, document, rules, retry_after_s(headers))

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:  # noqa: ARG002
        raise AssertionError("embeddings are not streamed")


def _build(conversation: Conversation) -> list[dict[str, msgspec.Raw]]:
    shared: dict[str, msgspec.Raw] = {}
    wanted = conversation.embedding
    if wanted is not None:
        if wanted.dimensions is not None:
            shared["outputDimensionality"] = msgspec.Raw(b"%d" % wanted.dimensions)
        if wanted.task:
            shared["taskType"] = msgspec.Raw(_encode(wanted.task))
        if wanted.title:
            shared["title"] = msgspec.Raw(_encode(wanted.title))
    requests = []
    for turn in conversation.turns:
        parts = [{"text": part.text} for part in turn.parts if isinstance(part, Text)]
        requests.append({"content": msgspec.Raw(_encode({"parts": parts})), **shared})
    return requests
