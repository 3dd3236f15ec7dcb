"""Embeddings by the SDKs of OpenAI and Google as they come, over providers of both kinds: metered by input tokens,
with failover, and without a trace of who answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import openai
import pytest
from google import genai
from google.genai import types
from openai import OpenAI

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import UPSTREAM_MODEL, deployment, model, provider
from waypost.simulator import Simulator

KINDS = {"alpha": "openai", "beta": "openai", "zeta": "gemini", "eta": "gemini"}
MODELS = tuple(f"by-{style}" for style in KINDS)
PRICES, COSTS = {"input": "0.10"}, {"input": "0.05"}
TEXTS = ["a lion", "ein Löwe", "a gas turbine"]


def document(sim: Simulator) -> dict[str, Any]:
    def embedding(slug: str, *styles: str) -> dict[str, Any]:
        deployments = [{**deployment(style), "cost": COSTS} for style in styles]
        return model(slug, *deployments, modality="embedding", price=PRICES, features=[], context_window=512)

    return {
        "providers": [provider(sim, style, style, kind=kind) for style, kind in KINDS.items()],
        "models": [
            *(embedding(f"by-{style}", style) for style in KINDS),
            embedding("by-all", *KINDS),
            model("swift-1", deployment("alpha")),
        ],
    }


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("vectors"), document=document) as stack:
        stack.stack.sim.set_prices({UPSTREAM_MODEL: COSTS})
        yield stack


@pytest.fixture
def client(stack: HostedStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_url, api_key=stack.key, max_retries=0) as client:
        yield client


def google(stack: HostedStack) -> genai.Client:
    options = types.HttpOptions(base_url=stack.base_url.removesuffix("/v1"), timeout=30_000)
    return genai.Client(api_key=stack.key, vertexai=False, http_options=options)


@pytest.mark.parametrize("name", MODELS)
def test_a_text_and_several_have_vectors_and_a_cost(client: OpenAI, name: str) -> None:
    one = client.embeddings.create(model=name, input=TEXTS[0])
    several = client.embeddings.create(model=name, input=TEXTS, encoding_format="float")

    assert [each.index for each in several.data] == [0, 1, 2]
    assert several.data[0].embedding == one.data[0].embedding  # the SDK asks for base64 unless told otherwise
    assert len({tuple(each.embedding) for each in several.data}) == 3
    assert several.model == name
    assert several.usage.prompt_tokens == several.usage.total_tokens > one.usage.prompt_tokens > 0
    assert Decimal(cast(Any, several.usage).cost) > 0


def test_every_provider_gives_the_same_bytes(stack: HostedStack) -> None:
    def told(path: str, body: dict[str, Any]) -> str:
        answer = stack.run(stack.stack.request("POST", path, body))
        assert answer.status == 200, answer.body
        # Eta counts nothing, so its tokens are counted here and may differ.
        return re.sub(rb'by-[a-z]+|[0-9a-f]{32}|"usage.*?}', b"*", answer.body).decode()

    for encoding in ("float", "base64"):
        body = {"input": TEXTS, "encoding_format": encoding}
        assert len({told("/v1/embeddings", {"model": name, **body}) for name in MODELS}) == 1
    requests = {"requests": [{"content": {"parts": [{"text": text}]}} for text in TEXTS]}
    assert len({told(f"/v1beta/models/{name}:batchEmbedContents", requests) for name in MODELS}) == 1
    single = {"content": {"parts": [{"text": TEXTS[0]}]}}
    assert len({told(f"/v1beta/models/{name}:embedContent", single) for name in MODELS}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_the_number_of_dimensions_is_the_callers(client: OpenAI, stack: HostedStack, name: str) -> None:
    assert len(client.embeddings.create(model=name, input="a", dimensions=8).data[0].embedding) == 8
    with google(stack) as other:
        config = types.EmbedContentConfig(output_dimensionality=8)
        answer = other.models.embed_content(model=name, contents="a", config=config)
    assert [len(each.values or ()) for each in answer.embeddings or ()] == [8]


def test_tokens_are_taken_by_those_who_take_them(client: OpenAI) -> None:
    one = client.embeddings.create(model="by-alpha", input=[1, 2, 3])
    two = client.embeddings.create(model="by-alpha", input=[[1, 2, 3], [4]])
    assert one.data[0].embedding == two.data[0].embedding
    assert (one.usage.prompt_tokens, two.usage.prompt_tokens) == (3, 4)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="by-zeta", input=[1, 2, 3])
    assert refused.value.param == "input as tokens"


def test_googles_sdk_embeds_with_tasks_where_there_are_some(stack: HostedStack) -> None:
    with google(stack) as client:
        asked: Any = TEXTS
        config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY")
        answer = client.models.embed_content(model="by-zeta", contents=asked, config=config)
        assert len(answer.embeddings or ()) == 3
        with pytest.raises(genai.errors.ClientError) as refused:
            client.models.embed_content(model="by-alpha", contents=asked, config=config)
    assert "taskType" in (refused.value.message or "")


def test_another_provider_answers_when_the_first_fails(stack: HostedStack, client: OpenAI) -> None:
    with stack.fault("status", status=500, count=2):
        assert client.embeddings.create(model="by-all", input="a").data


def test_bad_input_is_refused_by_its_name(client: OpenAI) -> None:
    def refused(**fields: Any) -> str | None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(**{"model": "by-alpha", "input": "a", **fields})
        return caught.value.param

    assert refused(input="") == "input"
    assert refused(input=[]) == "input"
    assert refused(input=["a", ""]) == "input"
    assert refused(input=cast(Any, ["a", 1])) == "input"
    assert refused(dimensions=0) == "dimensions"
    assert refused(model="swift-1") == "model"
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model="by-alpha", messages=[{"role": "user", "content": "a"}])
    assert chat.value.param == "model"


def test_a_batch_larger_than_a_context_is_metered_as_it_was_counted_and_the_books_agree(stack: HostedStack) -> None:
    key = stack.make_key(usd=1)
    texts = ["word " * 300 + str(at) for at in range(4)]  # each within its context of 512 tokens, together over it
    with OpenAI(base_url=stack.base_url, api_key=key, max_retries=0) as client:
        answer = client.embeddings.create(model="by-alpha", input=texts)
    assert answer.usage.prompt_tokens > 512
    assert Decimal(cast(Any, answer.usage).cost) == Decimal(answer.usage.prompt_tokens) * Decimal("0.0000001")

    async def costs() -> tuple[int, int]:
        await stack.stack.at_rest()
        settled = sum(row["cogs"] for row in await stack.stack.settlements() if row["provider"] in ("alpha", "zeta"))
        billed = sum(line.nanos for line in stack.stack.sim.bill.lines if line.style in ("alpha", "zeta"))
        return settled, billed

    settled, billed = stack.run(costs())
    assert settled == billed
