"""Image generations: what is asked, what a provider is sent and answers, and what the caller reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import ImagesResponse

from tests.wire.samples import AROUND, COST, identity_for
from waypost.kit.errors import ErrorCode, Refusal
from waypost.providers import MODALITIES
from waypost.providers.kind import BadAnswer, Target, UpstreamError
from waypost.wire.canonical import Usage
from waypost.wire.conversation import ImageOutput, Media, Text, Turn
from waypost.wire.formats import FORMATS, conversation_of
from waypost.wire.request import ChatRequest

PNG = "iVBORw0KGgoAAAANSUhEUg=="
JPEG = "/9j/4AAQSkZJRgABAQAAAQ=="
KIND = MODALITIES["image"]["openai"]
FORMAT = FORMATS["openai_images"]


def read(**fields: Any) -> ChatRequest:
    return FORMAT.read(json.dumps({"model": "paint-1", "prompt": "a cat"} | fields).encode(), AROUND)


def sent(request: ChatRequest, upstream_model: str = "dall-e-3") -> dict[str, Any]:
    target = KIND.prepare(Target(b"127.0.0.1:9100", "/v1", "sk-upstream", upstream_model))
    head, body = KIND.call(request, target, output_tokens_max=100)
    assert head.startswith(b"POST /v1/images/generations HTTP/1.1\r\n")
    return dict(json.loads(body))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"contents": [{"parts": [{"text": "a"}]}]}, "prompt"),
        ({"n": 11}, "n"),
        ({"size": "huge"}, "size"),
        ({"response_format": "file"}, "response_format"),
        ({"stream": True}, "stream"),
        ({"partial_images": 2}, "partial_images"),
        ({"prompt": None, "contents": [{"parts": [{"image": "http://example.org/a.png"}]}]}, "contents"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(**fields)

    assert (refused.value.code, refused.value.param) == (ErrorCode.INPUT_VALIDATION_ERROR, param)


def test_a_provider_is_asked_for_base64_as_it_likes_it_and_gets_the_rest_as_it_came() -> None:
    request = read(response_format="url", quality="high", size="16:9", image_size="2K")

    assert sent(request) == {
        "model": "dall-e-3",
        "prompt": "a cat",
        "response_format": "b64_json",
        "quality": "high",
        "size": "16:9",
        "image_size": "2K",
    }
    assert "response_format" not in sent(request, "gpt-image-1")


def test_a_request_is_a_conversation_whose_answer_is_images() -> None:
    contents = [{"role": "user", "parts": [{"text": "like this"}, {"image": f"data:image/png;base64,{PNG}"}]}]
    request = read(prompt=None, contents=contents, n=2, size="1024*768", mime_type="image/jpeg", seed=7, quality="auto")
    conversation = conversation_of(request)

    assert conversation.turns == [Turn("user", [Text("like this"), Media("image", "image/png", PNG)])]
    assert (conversation.n, conversation.unknown) == (2, ["seed"])
    assert conversation.image == ImageOutput(size="1024x768", media_type="image/jpeg")
    assert conversation_of(read(size="9:16", image_size="1K")).image == ImageOutput(aspect="9:16", resolution="1K")
    assert (request.image_count, request.modality) == (1, "image")


def answered(answer: dict[str, Any], **fields: Any) -> ImagesResponse:
    request = read(**fields)
    completion, usage = KIND.completion({}, json.dumps(answer).encode(), n=request.n)
    shown = FORMAT.render(completion, request, identity_for(request), usage or Usage(), COST)
    return ImagesResponse.model_validate_json(shown, strict=True)


def test_images_come_in_base64_or_as_data_urls_and_say_what_they_cost() -> None:
    usage = {"input_tokens": 50, "output_tokens": 544, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10}}
    answer = {"data": [{"b64_json": PNG}, {"b64_json": PNG, "revised_prompt": "a grey cat"}], "usage": usage}
    plain = answered(answer, n=2)
    by_url = answered(answer, n=2, response_format="url")

    assert plain.data is not None
    assert [(image.b64_json, image.revised_prompt) for image in plain.data] == [(PNG, None), (PNG, "a grey cat")]
    assert plain.output_format == "png"
    assert plain.usage is not None
    assert plain.usage.model_dump() == {
        **usage,
        "total_tokens": 594,
        "output_tokens_details": None,
        "images": 2,
        "cost": COST,
    }
    assert by_url.data is not None
    assert [image.url for image in by_url.data] == [f"data:image/png;base64,{PNG}"] * 2


def test_without_usage_the_images_are_counted() -> None:
    _, usage = KIND.completion({}, json.dumps({"data": [{"b64_json": JPEG}]}).encode())

    assert usage == Usage(images=1)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [{"url": "https://provider.example/a.png"}]},
        {"data": [{"b64_json": "aGVsbG8gd29ybGQh"}]},
        {"data": [{"b64_json": "*"}]},
        {"data": "none"},
        {"data": [{"b64_json": PNG}] * 11},
    ],
)
def test_what_is_no_image_is_no_answer(answer: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer):
        KIND.completion({}, json.dumps(answer).encode())


def test_a_refused_prompt_is_a_matter_of_moderation() -> None:
    body = b'{"error":{"code":"moderation_blocked","type":"image_generation_user_error","message":"no"}}'

    assert KIND.failure(400, {}, body, ()).code is ErrorCode.CONTENT_MODERATION_REJECTED
    with pytest.raises(UpstreamError):
        KIND.completion({}, body)


# ── Gemini's models ─────────────────────────────────────────────────────────────────────────────────────────────────

GEMINI = MODALITIES["image"]["gemini"]


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        ({}, None),
        ({"size": "1024x1024"}, {"aspectRatio": "1:1"}),
        ({"size": "1536x1024", "image_size": "2K"}, {"aspectRatio": "3:2", "imageSize": "2K"}),
        ({"size": "1024x1792"}, {"aspectRatio": "9:16"}),
        ({"size": "21:9"}, {"aspectRatio": "21:9"}),
        ({"image_size": "4K", "quality": "auto"}, {"imageSize": "4K"}),
    ],
)
def test_gemini_is_asked_for_a_picture_of_that_shape(asked: dict[str, Any], config: dict[str, str] | None) -> None:
    request = read(**asked)
    target = GEMINI.prepare(Target(b"127.0.0.1:9100", "", "key", "gemini-9-image"))
    head, body = GEMINI.call(request, target, output_tokens_max=2000)

    assert GEMINI.losses(conversation_of(request)) == ()
    assert head.startswith(b"POST /v1beta/models/gemini-9-image:generateContent HTTP/1.1\r\n")
    sent = json.loads(body)
    assert sent["contents"] == [{"role": "user", "parts": [{"text": "a cat"}]}]
    generation = sent["generationConfig"]
    assert (generation["responseModalities"], generation.get("imageConfig")) == (["IMAGE"], config)
    assert generation["maxOutputTokens"] == 2000


def test_what_gemini_cannot_be_told_is_named() -> None:
    fields = {
        "n": 2,
        "size": "1000x999",
        "quality": "high",
        "output_format": "jpeg",
        "image_size": "3K",
        "style": "vivid",
    }

    lost = GEMINI.losses(conversation_of(read(**fields)))
    assert set(lost) == {"n", "size", "quality", "output_format", "image_size", "style"}


def test_a_picture_of_gemini_is_an_image_and_words_are_none() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    answer: dict[str, Any] = {
        "candidates": [{"content": {"parts": [{"text": "Here."}, part]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1290, "totalTokenCount": 1294},
    }
    completion, usage = GEMINI.completion({}, json.dumps(answer).encode())
    shown = json.loads(FORMAT.render(completion, read(), identity_for(read()), usage or Usage(), COST))

    assert shown["data"] == [{"b64_json": PNG}]
    assert usage is not None
    assert (usage.images, usage.output_tokens) == (1, 1290)
    answer["candidates"][0]["content"]["parts"].pop()
    with pytest.raises(BadAnswer):
        GEMINI.completion({}, json.dumps(answer).encode())
    answer["candidates"][0]["finishReason"] = "IMAGE_SAFETY"
    with pytest.raises(UpstreamError):
        GEMINI.completion({}, json.dumps(answer).encode())
