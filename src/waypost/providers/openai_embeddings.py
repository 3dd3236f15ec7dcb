"""The openai kinds' embeddings endpoint, priced by input tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.kit.values import replace
from waypost.providers.embedding import completion_of, vector_of
from waypost.providers.error_map import decode_error, error_of, failure_of, read_error, retry_after_s
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, StreamReader, Target, UpstreamError
from waypost.providers.openai import change_fields, head_of
from waypost.providers.openai_fields import ABSENT, is_error
from waypost.providers.withheld import withhold
from waypost.wire.canonical import Completion, Usage
from waypost.wire.conversation import Conversation, Text
from waypost.wire.formats import conversation_of
from waypost.wire.openai_embeddings import NAME
from waypost.wire.request import ChatRequest

PATH = "/embeddings"


class _Vector(msgspec.Struct, gc=False):
    embedding: str | list[float] | None = None
    index: int | None = None


class _Answer(msgspec.Struct, gc=False):
    data: list[_Vector] | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class _Counts(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    total_tokens: int | None = None


_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_counts = msgspec.json.Decoder(_Counts | None, strict=False).decode


class OpenAIEmbeddings:
    """See `providers.kind.ProviderKind`."""

    __slots__ = ()
    format = NAME

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        lost = list(conversation.unknown)
        wanted = conversation.embedding
        assert wanted is not None
        lost += [name for name, has in (("taskType", wanted.task), ("title", wanted.title)) if has]
        return tuple(lost)

    def prepare(self, target: Target) -> Target:
        return replace(target, head=head_of(target, PATH))

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:  # noqa: ARG002
        fields = request.fields.copy() if request.format == NAME else _build(conversation_of(request))
        fields["model"] = msgspec.Raw(_encode(target.upstream_model))
        withhold(fields, request.around)
        if target.changes is not None:
            change_fields(fields, target.changes)
        return target.head or head_of(target, PATH), _encode(fields)

    def completion(
        self,
        headers: Mapping[bytes, bytes],  # noqa: ARG002
        body: bytes,
        *,
        n: int = 1,
        target: Target | None = None,
    ) -> tuple[Completion, Usage | None]:
        try:
            answer = _decode_answer(body)
            if answer.error is not ABSENT and is_error(answer.error):
                rules = target.error_rules if target is not None else ()
                raise UpstreamError(failure_of(error_of(200, {"error": decode_error(answer.error)}), rules))
        except (ValueError, RecursionError):
            raise BadAnswer from None
        sent = sorted(answer.data or (), key=lambda each: each.index or 0)
        return completion_of([vector_of(each.embedding) for each in sent], n), _usage_of(answer.usage)

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        return failure_of(read_error(status, body), rules, retry_after_s(headers))

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader:  # noqa: ARG002
        raise AssertionError("embeddings are not streamed")


def _usage_of(sent: msgspec.Raw) -> Usage | None:
    """Input alone; None when nobody counted."""
    if not len(sent):
        return None
    try:
        counts = _decode_counts(sent)
    except (ValueError, RecursionError):
        return Usage(-1)
    if counts is None:
        return None
    tokens = counts.total_tokens if counts.prompt_tokens is None else counts.prompt_tokens
    return None if tokens is None else Usage(tokens)


def _build(conversation: Conversation) -> dict[str, msgspec.Raw]:
    texts = ["".join([part.text for part in turn.parts if isinstance(part, Text)]) for turn in conversation.turns]
    fields = {"input": msgspec.Raw(_encode(texts))}
    if conversation.embedding is not None and conversation.embedding.dimensions is not None:
        fields["dimensions"] = msgspec.Raw(b"%d" % conversation.embedding.dimensions)
    return fields
