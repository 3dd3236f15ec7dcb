from __future__ import annotations

import base64
import json
from array import array
from typing import Any

import pytest

from tests.wire.samples import AROUND
from waypost.kit.errors import ErrorCode, Refusal
from waypost.providers import MODALITIES
from waypost.providers.kind import BadAnswer, Target, UpstreamError
from waypost.wire.canonical import Usage
from waypost.wire.formats import FORMATS, conversation_of
from waypost.wire.openai_embeddings import floats_of
from waypost.wire.request import Around, ChatRequest

OPENAI, GEMINI = MODALITIES["embedding"]["openai"], MODALITIES["embedding"]["gemini"]
TARGETS = {
    "openai": OPENAI.prepare(Target(b"host", "/v1", "sk", "embed-9")),
    "gemini": GEMINI.prepare(Target(b"host", "", "AIza", "embed-9")),
}


def openai_asks(**fields: Any) -> ChatRequest:
    body = {"model": "vec-1", "input": ["a", "b"], **fields}
    return FORMATS["openai_embeddings"].read(json.dumps(body).encode(), AROUND)


def gemini_asks(**body: Any) -> ChatRequest:
    return FORMATS["gemini_embed"].read(json.dumps(body).encode(), Around(AROUND.open_sealed, "vec-1"))


def sent(kind: str, request: ChatRequest) -> Any:
    _, body = MODALITIES["embedding"][kind].call(request, TARGETS[kind], output_tokens_max=1)
    return json.loads(body)


def test_a_provider_of_the_same_format_is_asked_as_the_caller_asked() -> None:
    asked = openai_asks(dimensions=8, user="u", newer=1)
    assert sent("openai", asked) == {"model": "embed-9", "input": ["a", "b"], "dimensions": 8, "newer": 1}
    one = gemini_asks(content={"parts": [{"text": "a"}]}, task_type="RETRIEVAL_QUERY")
    assert sent("gemini", one) == {
        "requests": [{"content": {"parts": [{"text": "a"}]}, "taskType": "RETRIEVAL_QUERY", "model": "models/embed-9"}]
    }
    assert TARGETS["gemini"].head.startswith(b"POST /v1beta/models/embed-9:batchEmbedContents HTTP/1.1\r\n")


def test_a_provider_of_the_other_format_is_asked_the_same() -> None:
    assert sent("gemini", openai_asks(dimensions=8)) == {
        "requests": [
            {"content": {"parts": [{"text": text}]}, "outputDimensionality": 8, "model": "models/embed-9"}
            for text in ("a", "b")
        ]
    }
    content = {"parts": [{"text": "a"}, {"text": "b"}]}
    assert sent("openai", gemini_asks(content=content, outputDimensionality=4)) == {
        "model": "embed-9",
        "input": ["a\nb"],
        "dimensions": 4,
    }


def test_what_the_other_format_cannot_say_is_named() -> None:
    one = {"content": {"parts": [{"text": "a"}]}}
    assert OPENAI.losses(conversation_of(gemini_asks(**one, taskType="CLUSTERING", title="t"))) == ("taskType", "title")
    batch = gemini_asks(requests=[one, {**one, "outputDimensionality": 3}])
    assert OPENAI.losses(conversation_of(batch)) == ("requests that differ in more than their content",)
    assert GEMINI.losses(conversation_of(openai_asks(input=[[1], [2]], newer=1))) == ("newer", "input as tokens")
    assert GEMINI.losses(conversation_of(openai_asks())) == ()


VECTORS = [array("f", [0.5, -1.0]).tobytes(), array("f", [0.25, 2.0]).tobytes()]


@pytest.mark.parametrize("is_base64", [False, True])
def test_vectors_are_read_in_the_order_of_their_inputs_however_they_are_spelled(is_base64: bool) -> None:
    spelled = [base64.b64encode(each).decode() if is_base64 else floats_of(each) for each in VECTORS]
    data = [{"index": at, "embedding": spelled[at]} for at in (1, 0)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}}).encode()

    completion, usage = OPENAI.completion({}, body, n=2)
    assert (completion.vectors, usage) == (VECTORS, Usage(4))
    body = json.dumps({"embeddings": [{"values": floats_of(each)} for each in VECTORS]}).encode()
    completion, usage = GEMINI.completion({}, body, n=2)
    assert (completion.vectors, usage) == (VECTORS, None)


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"embedding": [1.0]}],
        [{"embedding": [1.0]}, {"embedding": []}],
        [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}],
        [{"embedding": "AAA="}, {"embedding": "AAA="}],
        [{"embedding": "####"}, {"embedding": "####"}],
        [{"embedding": base64.b64encode(array("f", [float("nan")]).tobytes()).decode()}] * 2,
        [{"embedding": [1e300]}, {"embedding": [1e300]}],
    ],
)
def test_what_are_no_vectors_is_not_taken_for_some(data: list[Any]) -> None:
    with pytest.raises(BadAnswer):
        OPENAI.completion({}, json.dumps({"data": data}).encode(), n=2)
    embeddings = [{"values": each["embedding"]} for each in data if isinstance(each["embedding"], list)]
    if len(embeddings) == len(data):
        with pytest.raises(BadAnswer):
            GEMINI.completion({}, json.dumps({"embeddings": embeddings}).encode(), n=2)


def test_an_error_with_status_200_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        OPENAI.completion({}, b'{"error":{"message":"no","type":"server_error"}}')


@pytest.mark.parametrize("number", [b"1e999", b"-1e999"])
def test_a_number_out_of_range_is_a_mistake_of_the_callers(number: bytes) -> None:
    body = b'{"content":{"parts":[{"text":"a"}]},"x":%b}' % number
    with pytest.raises(Refusal) as refused:
        FORMATS["gemini_embed"].read(body, Around(AROUND.open_sealed, "vec-1"))

    assert refused.value.code is ErrorCode.INPUT_VALIDATION_ERROR
