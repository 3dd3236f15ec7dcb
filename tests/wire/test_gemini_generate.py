from __future__ import annotations

from typing import Any

import pytest

from tests.wire.gemini_samples import SAID, read
from waypost.kit.errors import Refusal
from waypost.wire.request import MORE_THAN_A_CONTEXT

PIXEL = "iVBORw0KGgo="


def test_what_routes_and_bills_is_read_from_path_and_configuration() -> None:
    config = {"candidateCount": 2, "maxOutputTokens": 64, "responseLogprobs": True}
    request = read({"contents": SAID, "generationConfig": config}, model="a/b:c", is_stream=True, query="alt=sse")

    assert (request.model, request.n, request.output_tokens_max) == ("a/b:c", 2, 64)
    assert (request.is_stream, request.is_array, request.wants_logprobs) == (True, False, True)


def test_a_stream_without_alt_sse_is_an_array() -> None:
    assert read({"contents": SAID}, is_stream=True).is_array
    assert read({"contents": SAID}, is_stream=True, query="alt=json").is_array


def test_both_spellings_of_a_field_are_one() -> None:
    body = {
        "contents": SAID,
        "system_instruction": {"parts": [{"text": "a"}]},
        "generation_config": {"max_output_tokens": 7, "top_p": 0.5, "thinking_config": {"include_thoughts": True}},
    }
    request = read(body)

    assert set(request.fields) == {"contents", "systemInstruction", "generationConfig"}
    assert request.output_tokens_max == 7
    assert bytes(request.fields["generationConfig"]).startswith(b'{"maxOutputTokens":7,"topP":0.5')
    assert request.shows_reasoning


def test_a_field_that_the_configuration_repeats_reaches_nobody_twice() -> None:
    request = read(
        b'{"contents":[{"parts":[{"text":"a"}]}],"generationConfig":{"maxOutputTokens":9,"maxOutputTokens":5}}'
    )

    assert request.output_tokens_max == 5
    assert bytes(request.fields["generationConfig"]) == b'{"maxOutputTokens":5}'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"contents": []}, "contents"),
        ({"contents": "hi"}, "contents"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 9}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"topP": "a"}}, "generationConfig.topP"),
        ({"generationConfig": {"topP": 1, "top_p": 1}}, "generationConfig.topP"),
        ({"generationConfig": []}, "generationConfig"),
        ({"generationConfig": {}, "generation_config": {}}, "generationConfig"),
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"cached_content": "cachedContents/1"}, "cachedContent"),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}, {"google_search": {}}]}, "tools[1].googleSearch"),
        ({"tools": [{"codeExecution": {}}]}, "tools[0].codeExecution"),
        ({"tools": [{"somethingNew": {}}]}, "tools[0]"),
        ({"tools": {}}, "tools"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read({"contents": SAID} | fields)

    assert refused.value.param == param


def test_another_framing_and_a_strange_model_name_are_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read({"contents": SAID}, is_stream=True, query="alt=proto")
    assert refused.value.param == "alt"
    with pytest.raises(Refusal) as refused:
        read({"contents": SAID}, model="../x")
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("part", "images", "is_left_out"),
    [
        ({"inlineData": {"mimeType": "image/png", "data": PIXEL}}, 1, True),
        ({"inline_data": {"mime_type": "image/png", "data": PIXEL}}, 1, True),
        ({"fileData": {"mimeType": "image/png", "fileUri": "https://example.org/a.png"}}, 1, False),
        ({"fileData": {"fileUri": "https://example.org/a"}}, MORE_THAN_A_CONTEXT, False),
        ({"inlineData": {"mimeType": "application/pdf", "data": PIXEL}}, MORE_THAN_A_CONTEXT, False),
        ({"inlineData": {"mimeType": "audio/wav", "data": PIXEL}}, 0, False),
        (
            {"functionResponse": {"name": "f", "parts": [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]}},
            1,
            True,
        ),
    ],
)
def test_media_count_by_the_piece_where_their_bytes_bound_nothing(
    part: dict[str, Any], images: int, is_left_out: bool
) -> None:
    body = {"contents": [{"parts": [part]}]}
    plain = read({"contents": [{"parts": [{"text": ""}]}]})
    request = read(body)

    assert request.image_count == images
    assert (request.text_bytes + len(PIXEL) > len(str(body)) - 40) == (not is_left_out) or is_left_out
    assert request.text_bytes > plain.text_bytes
