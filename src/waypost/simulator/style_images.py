"""Image generations at two providers of the openai kind: Alpha like OpenAI's newer models, Beta like the older ones and
those who copied them.

Pictures are small PNGs of one colour, the same for the same model.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from waypost.simulator.answer import Answer, Tokens
from waypost.simulator.directive import Directives, read_directives
from waypost.simulator.picture import picture
from waypost.simulator.reply import Headers, Piece
from waypost.simulator.request import ChatRequest, ImageUrl, InvalidRequest, Message, Part
from waypost.simulator.style import Complaint, Identity, JsonObject, Style, Telling
from waypost.simulator.style_alpha import Alpha
from waypost.simulator.style_beta import Beta
from waypost.simulator.style_openai import OpenAIStyle


class _Source(msgspec.Struct):
    text: str = ""
    image: str = ""


class _Content(msgspec.Struct):
    parts: list[_Source]
    role: str = "user"


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    prompt: Annotated[str, msgspec.Meta(min_length=1)] = ""
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    size: str | None = None
    quality: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    background: str | None = None
    moderation: str | None = None
    style: str | None = None
    user: str | None = None
    # Of relatives.
    contents: list[_Content] = []
    image_size: str | None = None
    mime_type: str | None = None
    response_modalities: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None


_decode_asked = msgspec.json.Decoder(_Asked).decode


class ImageStyle(Style):
    """Shared rules of image generations."""

    like: OpenAIStyle  # the provider's style of chat completions
    answers_field = "data"
    number_field: ClassVar[re.Pattern[bytes]] = re.compile(rb'"(?:input_tokens|created)":\s*\d+')
    count_fields = ("input_tokens", "output_tokens", "total_tokens")

    def takes(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", "/images/generations")

    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:  # noqa: ARG002  all is in the body
        try:
            asked = _decode_asked(body)
            prompt = asked.prompt or "".join(source.text for each in asked.contents for source in each.parts)
            directives = read_directives(prompt, asked.model)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(str(error)) from error
        self.check(asked.model, asked.response_format)
        sent = [source.image for each in asked.contents for source in each.parts if source.image]
        parts = [Part("text", text=prompt), *(Part("image_url", image_url=ImageUrl(url)) for url in sent)]
        return ChatRequest(asked.model, [Message("user", parts)], images=asked.n), directives

    @abstractmethod
    def check(self, model: str, response_format: str | None) -> None:
        """Raises InvalidRequest for a form of answer that the model does not have."""

    @abstractmethod
    def images(self, answer: Answer, identity: Identity, telling: Telling, pictures: list[str]) -> JsonObject:
        """The whole answer. `pictures` are in base64."""

    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        return self.like.page(method, path, body, models)

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
        return f"img-{identity.hex_id}"

    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:
        return self.like.error(identity, complaint)

    def usage(self, tokens: Tokens) -> JsonObject:
        return {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"image_tokens": tokens.image, "text_tokens": tokens.prompt - tokens.image},
            "output_tokens": tokens.output,
            "total_tokens": tokens.prompt + tokens.output,
        }

    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        pictures = [picture(identity.model, at) for at in range(answer.tokens.images)]
        return self.encode_document(self.images(answer, identity, telling, pictures))

    # Images are not streamed: no request asks for it.

    def events(
        self,
        answer: Answer,  # noqa: ARG002
        identity: Identity,  # noqa: ARG002
        telling: Telling,  # noqa: ARG002
        *,
        first_s: float,  # noqa: ARG002
        delay_s: float,  # noqa: ARG002
    ) -> Iterator[Piece]:
        return iter(())

    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:
        return self.like.error_event(identity, complaint)

    def usage_event(self, identity: Identity, usage: object) -> bytes:
        return self.like.usage_event(identity, usage)

    def late_event(self, identity: Identity) -> bytes:
        return self.like.late_event(identity)


class AlphaImages(ImageStyle):
    """Always in base64, and no field that says so."""

    name = Alpha.name
    prefix = Alpha.prefix
    like = Alpha()

    def check(self, model: str, response_format: str | None) -> None:
        if response_format is not None and model.startswith("gpt-image"):
            raise InvalidRequest("Unknown parameter: 'response_format'.")

    def images(self, answer: Answer, identity: Identity, telling: Telling, pictures: list[str]) -> JsonObject:
        shown: JsonObject = {
            "created": identity.created_s,
            "background": "opaque",
            "data": [{"b64_json": picture} for picture in pictures],
            "output_format": "png",
            "quality": "low",
            "size": "1024x1024",
        }
        usage = self.told_usage(answer.tokens, telling)
        return shown if usage is msgspec.UNSET else {**shown, "usage": usage}


class BetaImages(ImageStyle):
    """An address unless asked otherwise, no usage, fields of its own."""

    name = Beta.name
    prefix = Beta.prefix
    like = Beta()

    def check(self, model: str, response_format: str | None) -> None:  # noqa: ARG002  all of them alike
        if response_format != "b64_json":
            raise InvalidRequest("No images are hosted here: ask for b64_json.")

    def images(
        self,
        answer: Answer,  # noqa: ARG002
        identity: Identity,
        telling: Telling,  # noqa: ARG002
        pictures: list[str],
    ) -> JsonObject:
        data = [{"b64_json": picture, "url": None, "seed": 7} for picture in pictures]
        timings = {"inference_ms": 2}
        return {"data": data, "created": identity.created_s, "model": f"beta/{identity.model}", "timings": timings}
