"""Embeddings at providers of both kinds that have them: Alpha and Beta of the openai kind, Zeta and Eta of gemini's.

An equal text has an equal vector at each of them. Nothing is streamed.
"""

from __future__ import annotations

import base64
import re
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote

import msgspec

from waypost.kit.values import replace
from waypost.simulator.answer import Answer, Tokens
from waypost.simulator.directive import Directives, read_directives
from waypost.simulator.reply import Headers, Piece
from waypost.simulator.request import ChatRequest, InvalidRequest, Message
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling
from waypost.simulator.style_alpha import Alpha
from waypost.simulator.style_beta import Beta
from waypost.simulator.style_eta import Eta
from waypost.simulator.style_zeta import Zeta

DIMENSIONS = 16
_EMBED = re.compile(r"/v1(?:beta)?/models/(.+):(embedContent|batchEmbedContents)")

_Dimensions = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: _Dimensions | None = None
    user: str | None = None


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    text: str


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]
    role: str = "user"


class _EmbedContent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    content: _Content
    model: str = ""
    task_type: str = ""
    title: str = ""
    output_dimensionality: _Dimensions | None = None


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    requests: Annotated[list[_EmbedContent], msgspec.Meta(min_length=1)]


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_one = msgspec.json.Decoder(_EmbedContent).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode


class EmbeddingStyle(Style):
    """Spells what is not an answer as the provider's other endpoint does."""

    like: Style

    @property
    def group(self) -> int:  # type: ignore[override]  # a provider chunks all of its answers alike
        return self.like.group

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        return self.like.page(method, path, body, models)

    def credential(self, fields: object) -> str:
        assert isinstance(fields, dict)
        return self.like.credential(fields)

    def error_type(self, status: int) -> tuple[str, str | None]:
        return self.like.error_type(status)

    def encode(self, value: object) -> bytes:
        return self.like.encode(value)

    def encode_document(self, value: object) -> bytes:
        return self.like.encode_document(value)

    def frame(self, data: bytes) -> bytes:
        return self.like.frame(data)

    def headers(self, identity: Identity, content_type: str) -> Headers:
        return self.like.headers(identity, content_type)

    def answer_id(self, identity: Identity) -> str:
        return self.like.answer_id(identity)

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:
        return self.like.error(identity, complaint)

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:
        return self.like.error_event(identity, complaint)

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        return self.encode_document(self.vectors(answer, identity, self.told_usage(answer.tokens, telling)))

    @abstractmethod
    def vectors(self, answer: Answer, identity: Identity, usage: object) -> JsonObject:
        """The whole answer; `usage` is UNSET where it tells none."""

    def events(self, *_: object, **__: object) -> Iterator[Piece]:
        raise AssertionError("embeddings are not streamed")

    def usage_event(self, *_: object) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def late_event(self, *_: object) -> bytes:
        raise AssertionError("embeddings are not streamed")


class OpenAIEmbeddingStyle(EmbeddingStyle):
    answers_field = "data"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:prompt_tokens|total_tokens)":\s*\d+')
    count_fields = ("prompt_tokens", "total_tokens")

    def takes(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/embeddings")

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:  # noqa: ARG002  all is in the body
        try:
            asked = _decode_asked(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(str(error)) from error
        sent: list[str | int | list[int]] = [asked.input] if isinstance(asked.input, str) else asked.input
        if not sent or any(each in ("", []) for each in sent):
            raise InvalidRequest("'$.input' is invalid. Please check the API reference.")
        if isinstance(sent[0], int):
            sent = [[each for each in sent if isinstance(each, int)]]
        texts = [each if isinstance(each, str) else f"tokens {each}" for each in sent]
        tokens = sum(len(each) if isinstance(each, list) else tokens_of(str(each)) for each in sent)
        is_base64 = asked.encoding_format == "base64"
        return asked_for(asked.model, texts, asked.dimensions, tokens, is_base64=is_base64)

    def usage(self, tokens: Tokens) -> JsonObject:
        return {"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt}


class AlphaEmbeddings(OpenAIEmbeddingStyle):
    name, prefix, like = "alpha", Alpha.prefix, Alpha()

    def vectors(self, answer: Answer, identity: Identity, usage: object) -> JsonObject:
        data = [
            {"object": "embedding", "index": at, "embedding": _spelled(vector, is_base64=answer.is_base64)}
            for at, vector in enumerate(answer.vectors)
        ]
        told: JsonObject = {"object": "list", "data": data, "model": identity.model}
        return told if usage is msgspec.UNSET else {**told, "usage": usage}


class BetaEmbeddings(OpenAIEmbeddingStyle):
    """Numbers whatever was asked for, the last vector first, and fields that nobody knows."""

    name, prefix, like = "beta", Beta.prefix, Beta()

    def vectors(self, answer: Answer, identity: Identity, usage: object) -> JsonObject:
        data = [
            {"index": at, "embedding": _spelled(vector, is_base64=False), "x_beta": None}
            for at, vector in enumerate(answer.vectors)
        ]
        told: JsonObject = {"id": self.answer_id(identity), "data": data[::-1], "model": f"beta-{identity.model}"}
        return told if usage is msgspec.UNSET else {**told, "usage": usage}


class GeminiEmbeddingStyle(EmbeddingStyle):
    answers_field = "embeddings"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:promptTokenCount|totalTokenCount)":\s*\d+')
    count_fields = ("promptTokenCount", "totalTokenCount")

    def takes(self, method: str, path: str) -> bool:
        return method == "POST" and _EMBED.fullmatch(path) is not None

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:
        called = _EMBED.fullmatch(path)
        assert called is not None, "taken"
        try:
            is_batch = called[2] == "batchEmbedContents"
            requests = _decode_batch(body).requests if is_batch else [_decode_one(body)]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(str(error)) from error
        if any(each.model != f"models/{unquote(called[1])}" for each in requests if is_batch):
            raise InvalidRequest("* BatchEmbedContentsRequest.requests.model: model does not match the one in the path")
        texts = ["\n".join(part.text for part in each.content.parts) for each in requests]
        if "" in texts:
            raise InvalidRequest("Unable to submit request because it must have a text parameter.")
        tokens = sum(map(tokens_of, texts))
        return asked_for(unquote(called[1]), texts, requests[0].output_dimensionality, tokens, is_batch=is_batch)

    def usage(self, tokens: Tokens) -> JsonObject:
        return {"promptTokenCount": tokens.prompt, "totalTokenCount": tokens.prompt}

    def vectors(self, answer: Answer, identity: Identity, usage: object) -> JsonObject:  # noqa: ARG002  tells no ids
        shown = [{"values": _spelled(vector, is_base64=False)} for vector in answer.vectors]
        told: JsonObject = {"embeddings": shown} if answer.is_batch else {"embedding": shown[0]}
        return told if usage is msgspec.UNSET or not self.tells_usage else {**told, "usageMetadata": usage}

    tells_usage: ClassVar[bool] = True


class ZetaEmbeddings(GeminiEmbeddingStyle):
    name, prefix, like = "zeta", Zeta.prefix, Zeta()


class EtaEmbeddings(GeminiEmbeddingStyle):
    """Tells no usage."""

    name, prefix, like, tells_usage = "eta", Eta.prefix, Eta(), False


EMBEDDING_STYLES: tuple[EmbeddingStyle, ...] = (AlphaEmbeddings(), BetaEmbeddings(), ZetaEmbeddings(), EtaEmbeddings())


def tokens_of(text: str) -> int:
    """A quarter of its bytes, and one at least."""
    return max(1, -(-len(text.encode()) // 4))


def asked_for(
    model: str,
    texts: Sequence[str],
    dimensions: int | None,
    tokens: int,
    *,
    is_base64: bool = False,
    is_batch: bool = False,
) -> tuple[ChatRequest, Directives]:
    try:
        directives = read_directives(texts[-1], model)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    if directives.input is None:
        directives = replace(directives, input=tokens)
    request = ChatRequest(model, [Message("user", text) for text in texts], vectors=dimensions or DIMENSIONS)
    request.is_base64, request.is_batch = is_base64, is_batch
    return request, directives


def _spelled(vector: Sequence[float], *, is_base64: bool) -> object:
    return base64.b64encode(array("f", vector).tobytes()).decode() if is_base64 else list(vector)
