"""Images in a request, in base64: what is none would take four times its length as text, and is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.samples import AROUND as AROUND_NO_MODEL
from waypost.kit.errors import ErrorCode, Refusal
from waypost.wire.formats import FORMATS
from waypost.wire.request import Around, ChatRequest

AROUND = Around(AROUND_NO_MODEL.open_sealed, path_model="m")
MIB = 1 << 20
SMILE = "\N{GRINNING FACE}"


def with_image(name: str, data: str) -> dict[str, Any]:
    url = f"data:image/png;base64,{data}"
    source = {"type": "base64", "media_type": "image/png", "data": data}
    user: dict[str, dict[str, Any]] = {
        "openai_chat": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
        "openai_responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        "openai_images": {"contents": [{"role": "user", "parts": [{"image": url}]}]},
        "anthropic_messages": {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}],
        },
        "gemini_generate": {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}]},
    }
    return user[name] if name == "gemini_generate" else {"model": "m", **user[name]}


def read(name: str, data: str, *, is_escaped: bool) -> ChatRequest:
    body = json.dumps(with_image(name, data), ensure_ascii=is_escaped).encode()
    return FORMATS[name].read(body, AROUND)


FORMATS_WITH_IMAGES = ("openai_chat", "openai_responses", "openai_images", "anthropic_messages", "gemini_generate")


@pytest.mark.parametrize("name", FORMATS_WITH_IMAGES)
def test_a_long_image_is_no_text_in_any_format(name: str) -> None:
    request = read(name, "iVBORw0KGgo+/==" * (MIB // 10), is_escaped=False)
    assert (request.image_count, request.text_bytes < 400) == (1, True)


@pytest.mark.parametrize("is_escaped", [False, True])
@pytest.mark.parametrize("name", FORMATS_WITH_IMAGES)
def test_a_long_image_with_other_characters_is_refused(name: str, *, is_escaped: bool) -> None:
    with pytest.raises(Refusal) as refused:
        read(name, "A" * MIB + SMILE, is_escaped=is_escaped)
    assert refused.value.code is ErrorCode.INPUT_VALIDATION_ERROR
    assert "base64" in refused.value.message
