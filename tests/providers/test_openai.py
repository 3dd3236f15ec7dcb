from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.wire.samples import TARGET
from tests.wire.samples import read as read_request
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.catalogue import RequestChanges
from waypost.providers import KINDS, MODALITIES
from waypost.providers.kind import BadAnswer, Target, UpstreamError
from waypost.providers.openai_stream import OpenAIStream
from waypost.wire.canonical import Completion, Usage
from waypost.wire.request import ChatRequest

OPENAI = KINDS["openai"]


def request(**fields: Any) -> ChatRequest:
    return read_request(json.dumps({"model": "swift-1", "messages": [{"role": "user"}]} | fields).encode())


def sent(fields: dict[str, Any], *, output_tokens_max: int | None = None, **changes: Any) -> dict[str, Any]:
    target = replace(TARGET, changes=RequestChanges(**changes)) if changes else TARGET
    decoded = json.loads(OPENAI.call(request(**fields), target, output_tokens_max=output_tokens_max)[1])
    assert isinstance(decoded, dict)
    return decoded


def completed(document: Any, n: int = 1) -> tuple[Completion, Usage | None]:
    return OPENAI.completion({}, document if isinstance(document, bytes) else json.dumps(document).encode(), n=n)


def answer(message: Any, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


# ── the call ──


def test_reasoning_that_we_sealed_is_not_sent_on() -> None:
    said = {"role": "assistant", "content": "a", "reasoning_content": "r"}
    detail = {"type": "reasoning.text", "text": "r", "signature": "wp1Axxxx", "index": 0}

    body = sent({"messages": [{"role": "user", "content": "hi"}, {**said, "reasoning_details": [detail]}]})

    assert body["messages"] == [{"role": "user", "content": "hi"}, said]


def test_the_head_is_made_of_the_target_alone() -> None:
    head, _ = OPENAI.call(
        request(host="evil.example", base_url="http://evil.example", api_base="x", extra_headers={"host": "x"}),
        OPENAI.prepare(Target(b"api.example:8443", "/openai/v1", "sk-1", "m", headers=(("x-team", "a b"),))),
        output_tokens_max=None,
    )

    assert head == (
        b"POST /openai/v1/chat/completions HTTP/1.1\r\n"
        b"host: api.example:8443\r\n"
        b"authorization: Bearer sk-1\r\n"
        b"content-type: application/json\r\n"
        b"accept-encoding: identity\r\n"
        b"user-agent: waypost\r\n"
        b"x-team: a b\r\n"
    )


def test_a_target_that_was_not_prepared_makes_the_same_head() -> None:
    target = Target(b"127.0.0.1:9100", "/v1", "", "m")

    assert OPENAI.call(request(), target, output_tokens_max=None)[0] == OPENAI.prepare(target).head
    assert b"authorization" not in OPENAI.prepare(target).head


@pytest.mark.parametrize(
    "parts",
    [
        {"host_header": b"a\r\nx: y"},
        {"host_header": b""},
        {"host_header": b"a b"},
        {"path_prefix": "/v1\r\nx: y"},
        {"path_prefix": "/v1 HTTP/1.1"},
        {"path_prefix": "/v1/../admin"},
        {"path_prefix": "v1"},
        {"path_prefix": "/v1/"},
        {"path_prefix": "/v1?x"},
        {"credential": "a\nb"},
        {"credential": "ü"},
        {"headers": (("x", "a\r\nb: c"),)},
        {"credential_header": "x\r\ny"},
        {"api_version": "1 HTTP/1.1"},
        {"headers": (("x y", "a"),)},
        {"headers": (("x:", "a"),)},
        {"headers": (("", "a"),)},
        {"headers": (("Content-Length", "5"),)},
        {"headers": (("Host", "a"),)},
        {"headers": (("Authorization", "Bearer x"),)},
    ],
)
def test_a_target_that_could_break_out_of_its_head_is_refused(parts: dict[str, Any]) -> None:
    whole = {"host_header": b"a", "path_prefix": "/v1", "credential": "", "upstream_model": "m"} | parts
    with pytest.raises(ValueError, match=r"valid|carry|configurable"):
        Target(**whole)


def test_a_target_never_shows_its_credential() -> None:
    assert "sk-upstream" not in f"{TARGET!r} {TARGET}"


def test_the_model_is_replaced_and_unknown_fields_pass() -> None:
    assert sent({"top_k": 40, "x": {"y": [1]}}) == {
        "model": "alpha-large-2026",
        "messages": [{"role": "user"}],
        "top_k": 40,
        "x": {"y": [1]},
    }


def test_unknown_values_pass_byte_for_byte() -> None:
    raw = b'{ "b":1.50,"a":"\\u00e9" , "b":1e2}'
    chat = read_request(b'{"model":"m","messages":[{"role":"user"}],"x":%b}' % raw)

    assert b'"x":' + raw in OPENAI.call(chat, TARGET, output_tokens_max=None)[1]


def test_usage_is_always_asked_for_when_streaming() -> None:
    assert sent({"stream": True})["stream_options"] == {"include_usage": True}
    assert sent({"stream": True, "stream_options": None})["stream_options"] == {"include_usage": True}
    options = {"include_usage": False, "include_obfuscation": True}
    assert sent({"stream": True, "stream_options": options})["stream_options"] == {
        "include_usage": True,
        "include_obfuscation": True,
    }
    assert "stream_options" not in sent({})


def test_an_output_bound_holds_where_the_caller_gave_none_or_a_higher_one() -> None:
    assert sent({}, output_tokens_max=50)["max_completion_tokens"] == 50
    assert sent({"max_completion_tokens": None}, output_tokens_max=50)["max_completion_tokens"] == 50
    assert "max_completion_tokens" not in sent({"max_tokens": 7}, output_tokens_max=50)
    assert "max_completion_tokens" not in sent({})
    assert sent({"max_tokens": 7}, output_tokens_max=50)["max_tokens"] == 7
    assert sent({"max_tokens": 51}, output_tokens_max=50)["max_tokens"] == 50
    assert sent({"max_completion_tokens": 10**9}, output_tokens_max=50)["max_completion_tokens"] == 50
    both = sent({"max_tokens": 60, "max_completion_tokens": 60}, output_tokens_max=50)
    assert (both["max_tokens"], both["max_completion_tokens"]) == (50, 50)


def test_the_tier_is_not_for_the_caller_to_choose() -> None:
    assert "service_tier" not in sent({"service_tier": "priority"})


def test_changes_rename_then_drop_then_set() -> None:
    changed = sent(
        {"a": 1, "b": 2, "c": 3},
        output_tokens_max=50,
        rename={"a": "b", "max_completion_tokens": "max_tokens", "absent": "x"},
        drop=("c", "absent too"),
        set={"c": msgspec.Raw(b'{"d":4}')},
    )

    assert {name: changed.get(name) for name in ("a", "b", "c", "max_tokens", "max_completion_tokens", "x")} == {
        "a": None,
        "b": 1,
        "c": {"d": 4},
        "max_tokens": 50,
        "max_completion_tokens": None,
        "x": None,
    }


def test_a_request_can_be_sent_again_after_a_failed_attempt() -> None:
    chat = request(stream=True, service_tier="flex")
    first = OPENAI.call(chat, TARGET, output_tokens_max=5)

    assert OPENAI.call(chat, TARGET, output_tokens_max=5) == first
    assert bytes(chat.fields["model"]) == b'"swift-1"'


# ── the answer ──


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html><body>It works!</body></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[null]}',
        b'{"choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"message":null,"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"content":"a"}}]}',
        b'{"choices":[{"message":{"content":"a"},"finish_reason":null}]}',
        b'{"choices":[{"message":{"content":7},"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]',
        b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"stop"}]}',
        b'{"choices":[{"index":1,"message":{"content":"a"},"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop","logprobs":{"content":[{"logprob":NaN}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"id":"x"}]},"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"tool_calls":[{"id":"x","function":{}}]},"finish_reason":"stop"}]}',
        b'{"choices":[{"index":123456789012345678901234567890,"message":{},"finish_reason":"stop"}]}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"},{"message":{"content":"b"},"finish_reason":"stop"}]}',
    ],
)
def test_what_is_no_answer_is_never_taken_for_one(document: Any) -> None:
    with pytest.raises(BadAnswer):
        completed(document)


def test_fewer_choices_than_asked_for_are_no_answer() -> None:
    with pytest.raises(BadAnswer):
        completed(answer({"content": "a"}), n=2)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"error": {"code": 502, "message": "x"}}, ErrorCode.MODEL_UNAVAILABLE),
        ({"error": {"type": "content_policy_violation"}, "choices": []}, ErrorCode.CONTENT_MODERATION_REJECTED),
        ({"error": "x"}, ErrorCode.GENERATION_FAILED),
        (answer({"content": ""}, "error"), ErrorCode.GENERATION_FAILED),
    ],
)
def test_an_error_under_status_200_is_an_error(document: Any, code: ErrorCode) -> None:
    with pytest.raises(UpstreamError) as raised:
        completed(document)
    assert raised.value.failure.code is code


def test_choices_are_put_in_order_with_what_is_exposed_of_each() -> None:
    target = replace(TARGET, expose=("tag", "service"))
    choices = [
        {"index": 1, "message": {"content": "b", "tag": "B"}, "finish_reason": "stop"},
        {"index": 0, "message": {"content": "a", "tag": "A", "x": 1}, "finish_reason": "stop"},
    ]
    completion, _ = OPENAI.completion({}, json.dumps({"choices": choices, "y": 1}).encode(), n=2, target=target)

    assert [(c.index, c.content, c.exposed) for c in completion.choices] == [
        (0, "a", {"tag": b'"A"'}),
        (1, "b", {"tag": b'"B"'}),
    ]
    assert completion.unknown_fields == 4


def test_two_calls_under_one_id_are_told_apart() -> None:
    twice = {"id": "x", "function": {"name": "f", "arguments": "{}"}}
    completion, _ = completed(answer({"tool_calls": [twice, twice]}))

    assert [call.id for call in completion.choices[0].tool_calls] == ["x", ""]


def test_arguments_cut_short_stay_as_they_are() -> None:
    call = {"id": "x", "function": {"name": "f", "arguments": ""}}

    assert completed(answer({"tool_calls": [call]}, "length"))[0].choices[0].tool_calls[0].arguments == ""
    assert completed(answer({"tool_calls": [call]}))[0].choices[0].tool_calls[0].arguments == "{}"


# ── usage, as reported ──


def usage_of(usage: Any) -> Usage | None:
    return completed(answer({"content": "a"}, usage=usage))[1]


@pytest.mark.parametrize("missing", [None, {}, {"prompt_tokens": None, "completion_tokens": None}, {"cost": 1}])
def test_missing_usage_is_none(missing: Any) -> None:
    assert usage_of(missing) is None
    assert completed(answer({"content": "a"}))[1] is None


def test_explicit_zeros_are_a_report() -> None:
    assert usage_of({"prompt_tokens": 0, "completion_tokens": 0}) == Usage()


def test_cached_written_and_reasoning_tokens_are_parts_of_their_totals() -> None:
    assert usage_of(
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
            "completion_tokens_details": {"reasoning_tokens": 40},
        }
    ) == Usage(50, 30, 20, 0, 50, 40)


def test_reasoning_counted_beside_the_completion_is_output_all_the_same() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 40}}

    assert usage_of({"prompt_tokens": 5, "completion_tokens": 50, "total_tokens": 95} | details) == Usage(
        5, output_tokens=90, reasoning_tokens=40
    )
    assert usage_of({"prompt_tokens": 5, "completion_tokens": 10} | details) == Usage(
        5, output_tokens=50, reasoning_tokens=40
    )


def test_whole_numbers_in_other_spellings_count() -> None:
    assert usage_of({"prompt_tokens": 12.0, "completion_tokens": "7"}) == Usage(12, output_tokens=7)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": "x", "completion_tokens": 1},
        {"prompt_tokens": "-5", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": [1]},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": -1}},
        [],
        "lots",
        7,
    ],
)
def test_what_cannot_be_a_count_comes_out_negative(usage: Any) -> None:
    reported = usage_of(usage)

    assert reported is not None
    assert reported.input_tokens < 0


def test_absurd_counts_are_handed_on_for_metering_to_judge() -> None:
    assert usage_of({"prompt_tokens": 10**30, "completion_tokens": 1}) == Usage(10**30, output_tokens=1)
    body = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%b}}'
    reported = completed(body % (b"9" * 5_000))[1]
    assert reported is not None
    assert reported.input_tokens < 0


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ({"id": 'a\u00e9"b'}, 'aé"b'),
        ({"id": 7}, ""),
        ({"id": None}, ""),
        ({}, ""),
    ],
)
def test_the_name_of_an_answer_is_known_to_the_books(sent: dict[str, Any], known: str) -> None:
    document = answer({"content": "x"}, **sent)
    assert completed(document)[0].answer_id == known
    reader = KINDS["openai"].stream()
    reader.feed(b"data: %b\n\n" % json.dumps({"choices": [], **sent}).encode())
    assert isinstance(reader, OpenAIStream)
    assert reader.answer_id == known


def test_azure_gets_its_own_header_and_version_at_every_endpoint() -> None:
    target = Target(b"x.openai.azure.com", "/openai/v1", "k-1", "m", credential_header="api-key", api_version="preview")

    for kind, path in (
        (KINDS["openai"], b"chat/completions"),
        (KINDS["openai-responses"], b"responses"),
        (MODALITIES["image"]["openai"], b"images/generations"),
    ):
        head = kind.prepare(target).head
        assert head.startswith(b"POST /openai/v1/%b?api-version=preview HTTP/1.1\r\n" % path)
        assert b"\r\napi-key: k-1\r\n" in head
        assert b"authorization" not in head
