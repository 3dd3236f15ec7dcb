"""Image generations by the OpenAI SDK as it comes: held and billed by image and by token, with failover."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import openai
import pytest
from openai import OpenAI

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import deployment, model, provider
from waypost.simulator import Simulator

PRICES = {"image": "40000", "input": "5", "output": "40"}  # 4 cents an image, and tokens
COSTS = {"image": "30000", "input": "4", "output": "30"}
UPSTREAM = "gpt-image-9"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # noqa: E501


def document(sim: Simulator) -> dict[str, Any]:
    def painted(slug: str, *deployments: dict[str, Any]) -> dict[str, Any]:
        priced = [{**each, "cost": COSTS} for each in deployments]
        return model(slug, *priced, modality="image", price=PRICES, features=[])

    alpha, beta = deployment("alpha", UPSTREAM), deployment("beta", "paint-old")
    zeta = deployment("zeta", "gemini-9-image")
    return {
        "providers": [
            provider(sim, "alpha", "alpha"),
            provider(sim, "beta", "beta", kind="openai"),
            provider(sim, "zeta", "zeta", kind="gemini"),
        ],
        "models": [
            painted("paint-1", alpha, beta),
            painted("paint-2", beta),
            painted("paint-3", zeta),
            model("swift-1", deployment("alpha")),
        ],
    }


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("images"), document=document) as stack:
        stack.stack.sim.set_prices({UPSTREAM: COSTS, "paint-old": COSTS, "gemini-9-image": COSTS})
        yield stack


@pytest.fixture
def client(stack: HostedStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize(("name", "n"), [("paint-1", 2), ("paint-3", 1)])
def test_images_come_and_are_billed_by_image_and_token(client: OpenAI, stack: HostedStack, name: str, n: int) -> None:
    before = stack.stack.sim.bill.nanos
    answer = client.images.generate(model=name, prompt="A harbour at noon", n=n, size="1024x1024")

    assert answer.data is not None
    assert len(answer.data) == n
    for image in answer.data:
        assert base64.b64decode(image.b64_json or "").startswith(b"\x89PNG")
    assert answer.usage is not None
    usage = cast(Any, answer.usage)
    tokens = answer.usage.input_tokens * Decimal(PRICES["input"]) + answer.usage.output_tokens * Decimal(
        PRICES["output"]
    )
    assert Decimal(usage.cost) == (tokens + n * Decimal(PRICES["image"])) / 1_000_000
    assert usage.images == n
    stack.run(stack.stack.at_rest())
    line, settled = stack.stack.sim.bill.lines[-1], stack.run(stack.stack.settlements())[-1]
    assert (line.images, stack.stack.sim.bill.nanos - before, settled["cogs"]) == (n, line.nanos, line.nanos)


def test_an_address_is_a_data_url(client: OpenAI) -> None:
    answer = client.images.generate(model="paint-2", prompt="A cat", response_format="url")

    assert answer.data is not None
    assert (answer.data[0].url or "").startswith("data:image/png;base64,")
    assert answer.data[0].b64_json is None


def test_images_are_made_of_images_and_turns(client: OpenAI, stack: HostedStack) -> None:
    contents = [{"role": "user", "parts": [{"text": "Make it blue"}, {"image": PIXEL}]}]
    asked = {"model": "paint-1", "contents": contents, "image_size": "1K", "size": "16:9"}
    answer = stack.run(stack.stack.request("POST", "/v1/images/generations", asked))

    assert answer.status == 200
    assert answer.json["usage"]["input_tokens_details"]["image_tokens"] > 0
    assert json.loads(stack.stack.sim.requests[-1].body)["contents"] == contents


def test_another_provider_answers_for_one_that_fails(client: OpenAI, stack: HostedStack) -> None:
    with stack.fault("status", status=500, style="alpha"):
        answer = client.images.generate(model="paint-1", prompt="A cat")

    assert answer.data is not None
    assert cast(Any, answer.usage).images == 1


def test_a_balance_that_does_not_cover_an_image_is_refused(stack: HostedStack) -> None:
    poor = OpenAI(base_url=stack.base_url, api_key=stack.make_key(usd=0), max_retries=0)
    with poor, pytest.raises(openai.APIStatusError) as refused:
        poor.images.generate(model="paint-1", prompt="A cat")
    assert refused.value.status_code == 402


def test_what_a_model_cannot_be_told_is_refused_by_its_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="paint-3", prompt="A cat", quality="high")
    assert refused.value.param == "quality"


def test_models_answer_what_they_are_for(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="swift-1", prompt="A cat")
    assert (refused.value.param, "modality 'chat'" in refused.value.message) == ("model", True)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="paint-1", messages=[{"role": "user", "content": "hi"}])


def test_nobody_can_tell_who_painted(stack: HostedStack) -> None:
    shown = []
    for name in ("paint-1", "paint-2", "paint-3"):
        answer = stack.run(stack.stack.request("POST", "/v1/images/generations", {"model": name, "prompt": "A cat"}))
        for word in ("alpha", "beta", "zeta", "gemini", "timings", "revised", UPSTREAM, "paint-old", "opaque", "seed"):
            assert word not in answer.raw.decode("latin-1").lower()
        body = re.sub(r'"(b64_json|cost)":"[^"]*"', r'"\1":""', answer.body.decode())
        shown.append(re.sub(r":\d+", ":0", body))
    assert shown[0] == shown[1] == shown[2]
