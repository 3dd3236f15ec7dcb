"""What a request is held for, and what a refusal for money says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.policy.samples import catalogue_of, minimal_model
from tests.wire.samples import AROUND
from waypost.gateway.admission import INPUT_BYTES_PER_TOKEN_MOST, make_offer, refuse_too_long
from waypost.kit.errors import Refusal
from waypost.kit.values import replace
from waypost.ledger.record import BudgetUsedUp
from waypost.ledger.shortfall import used_up
from waypost.metering.ceiling import Ceiling
from waypost.policy.ceiling import TOOLS_TOKENS
from waypost.wire.formats import FORMATS

_COVER = "does not cover the most this request may cost"


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (
            BudgetUsedUp("key", "day", 1_795_737_600_000),
            f"The daily budget of this API key {_COVER}. It renews at 2026-11-27T00:00:00Z.",
        ),
        (
            BudgetUsedUp("project", "month", 1_796_083_200_000),
            f"The monthly budget of this API key's project {_COVER}. It renews at 2026-12-01T00:00:00Z.",
        ),
        (
            BudgetUsedUp("organisation", "lifetime", None),
            f"The budget of the organisation {_COVER}, and does not renew.",
        ),
    ],
)
def test_a_refusal_names_the_budget_and_when_it_renews(budget: BudgetUsedUp, sentence: str) -> None:
    assert used_up(budget) == sentence


DEAR_SOUND = {"input": "1", "output": "1", "audio_input": "40", "audio_output": "80"}
PNG = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
PATH = replace(AROUND, path_model="m")


def held_for(body: dict[str, Any] | bytes, sent: str = "openai_chat", **fields: Any) -> Ceiling:
    model = catalogue_of(minimal_model("m", **{"context_window": 1_000_000, "price": DEAR_SOUND} | fields)).models[0]
    request = FORMATS[sent].read(body if isinstance(body, bytes) else json.dumps(body).encode(), PATH)
    return make_offer(request, model, 0).ceiling


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts) or "hi"}], **fields}


def generate(*parts: Any, **config: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": "hi"}, *parts]}], "generationConfig": config}


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ("openai_chat", chat({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})),
        ("openai_chat", json.dumps(chat({"type": "input_audio"})).replace("audio", "\\u0061udio").encode()),
        ("openai_chat", json.dumps(chat({"type": "input_audio"})).replace("audio", "a\\u0055dio").encode()),
        ("openai_chat", chat({"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}})),
        ("gemini_generate", generate({"inlineData": {"mimeType": "AUDIO/wav", "data": "AA=="}})),
        ("gemini_generate", generate({"inlineData": {"mimeType": "video/mp4", "data": "AA=="}})),
        ("gemini_generate", generate({"fileData": {"fileUri": "https://example.org/watch"}})),
        ("gemini_generate", generate(responseModalities=["AUDIO"])),
    ],
)
def test_sound_is_held_for_however_it_is_spelled(sent: str, body: dict[str, Any] | bytes) -> None:
    assert held_for(body, sent).has_audio
    assert not held_for(chat({"type": "text", "text": "hi"}, PNG)).has_audio


@pytest.mark.parametrize(
    ("sent", "body", "may_speak"),
    [
        ("openai_chat", chat(modalities=["text", "audio"], audio={"voice": "alloy"}), True),
        ("openai_chat", json.dumps(chat(modalities=["audio"])).replace("audio", "audi\\u006f").encode(), True),
        ("gemini_generate", generate(responseModalities=["Audio"]), True),
        ("gemini_generate", generate(temperature=1), False),
        ("openai_chat", chat({"type": "input_audio", "input_audio": {"data": "AA=="}}), False),
    ],
)
def test_an_answer_that_may_be_spoken_is_told_apart(sent: str, body: dict[str, Any] | bytes, may_speak: bool) -> None:
    assert held_for(body, sent).may_speak == may_speak
    assert held_for(body, sent, price={"input": "1", "output": "1"}).may_speak == may_speak


def test_an_image_is_held_at_the_models_own_maximum() -> None:
    size = len(json.dumps(chat(PNG)))

    assert held_for(chat(PNG)).input_tokens_max == size + 6_144
    assert held_for(chat(PNG), image_tokens_max=20_000).input_tokens_max == size + 20_000


_FUNCTION = {"name": "f", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ("openai_chat", chat(tools=[{"type": "function", "function": _FUNCTION}])),
        ("openai_chat", chat(functions=[_FUNCTION])),
        ("openai_responses", {"model": "m", "input": "hi", "tools": [{"type": "function", **_FUNCTION}]}),
        (
            "anthropic_messages",
            {**chat(), "max_tokens": 9, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        ),
        ("gemini_generate", {**generate(), "tools": [{"functionDeclarations": [_FUNCTION]}]}),
    ],
)
def test_room_is_left_for_what_a_provider_says_about_tools_in_every_format(sent: str, body: dict[str, Any]) -> None:
    assert held_for(body, sent).input_tokens_max == len(json.dumps(body)) + TOOLS_TOKENS


@pytest.mark.parametrize("none", [{}, {"tools": None}, {"tools": []}])
def test_no_room_is_left_for_no_tools(none: dict[str, Any]) -> None:
    assert held_for(chat(**none)).input_tokens_max == len(json.dumps(chat(**none)))


def test_an_input_that_no_context_holds_is_refused_with_both_figures() -> None:
    model = catalogue_of(minimal_model("m", context_window=1_000)).models[0]
    fits, too_long = (chat({"type": "text", "text": "x" * n * INPUT_BYTES_PER_TOKEN_MOST}) for n in (1_000, 1_001))
    refuse_too_long(FORMATS["openai_chat"].read(json.dumps(fits).encode(), PATH), model)
    with pytest.raises(Refusal) as refused:
        refuse_too_long(FORMATS["openai_chat"].read(json.dumps(too_long).encode(), PATH), model)
    assert refused.value.message == "The input has more than 1,001 tokens, and the model reads at most 1,000."


def test_what_stands_escaped_or_is_no_text_counts_for_no_tokens() -> None:
    model = catalogue_of(minimal_model("m", context_window=1_000)).models[0]
    escaped = chat({"type": "text", "text": "ж" * 8_000}, user="u" * 40_000)
    body = json.dumps(escaped).encode()
    assert len(body) > 1_000 * INPUT_BYTES_PER_TOKEN_MOST
    refuse_too_long(FORMATS["openai_chat"].read(body, PATH), model)
