from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.samples import read as read_request
from waypost.kit.errors import ErrorCode, Refusal
from waypost.wire.request import MESSAGES_MAX, MORE_THAN_A_CONTEXT, OUTPUT_TOKENS_MAX

MESSAGES = [{"role": "user", "content": "hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "swift-1", "messages": MESSAGES} | fields).encode()


def refusal_of(document: bytes) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read_request(document)
    assert refused.value.code is ErrorCode.INPUT_VALIDATION_ERROR
    return refused.value


def test_a_plain_request_has_its_defaults() -> None:
    request = read_request(body())

    assert (request.model, request.is_stream, request.include_usage, request.n) == ("swift-1", False, False, 1)
    assert (request.output_tokens_max, request.image_count) == (None, 0)
    assert request.text_bytes == len(body())


def test_what_is_asked_for_is_read() -> None:
    request = read_request(
        body(stream=True, stream_options={"include_usage": True}, n=3, max_tokens=7, logprobs=True, tools=[])
    )

    assert (request.is_stream, request.include_usage, request.n) == (True, True, 3)
    assert (request.output_tokens_max, request.wants_logprobs, request.uses_functions) == (7, True, False)


def test_nulls_are_as_good_as_absent_fields() -> None:
    names = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "tools", "response_format")
    request = read_request(body(**dict.fromkeys(names)))

    assert (request.is_stream, request.n, request.output_tokens_max) == (False, 1, None)


@pytest.mark.parametrize("fields", [{"max_tokens": 5}, {"max_completion_tokens": 5}])
def test_both_names_of_the_output_bound_are_understood(fields: dict[str, Any]) -> None:
    assert read_request(body(**fields)).output_tokens_max == 5


def test_equal_bounds_under_both_names_are_one_bound() -> None:
    assert read_request(body(max_tokens=5, max_completion_tokens=5)).output_tokens_max == 5


def test_unknown_fields_are_kept_as_they_came() -> None:
    request = read_request(b'{"model":"m","messages":[{"role":"user"}],"x":{"b" : 1.50,  "a":"\\u00e9"}}')

    assert bytes(request.fields["x"]) == b'{"b" : 1.50,  "a":"\\u00e9"}'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 1}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a..b"}, "model"),
        ({"model": "../v1/files"}, "model"),
        ({"model": "a\n"}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": "-a"}, "model"),
        ({"model": "a" * 129}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES * (MESSAGES_MAX + 1)}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [*MESSAGES, {"content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": 1}]}, "messages[0].role"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": "1"}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": OUTPUT_TOKENS_MAX + 1}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"functions": "f"}, "functions"),
        ({"response_format": "json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    refusal = refusal_of(body(**fields))

    assert refusal.param == param
    assert param in refusal.message


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_refused_by_its_name(name: str) -> None:
    document = {"model": "m", "messages": MESSAGES}
    del document[name]

    assert refusal_of(json.dumps(document).encode()).param == name


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("model", '"a"', '"b"'),
        ("stream", "false", "true"),
        ("max_tokens", "1", "2"),
        ("max_completion_tokens", "1", "2"),
        ("n", "1", "1"),
    ],
)
@pytest.mark.parametrize("colon", [":", " : "])
def test_a_key_that_stands_twice_is_refused(name: str, first: str, second: str, colon: str) -> None:
    middle = '"messages":[{"role":"user","content":"\\"model\\":1"}],"metadata":{"n":1}'
    model = "" if name == "model" else '"model":"a",'
    document = f'{{{model}"{name}"{colon}{first},{middle},"{name}"{colon}{second}}}'

    assert refusal_of(document.encode()).param == name


def test_a_key_that_stands_twice_under_an_escape_is_refused() -> None:
    assert refusal_of(b'{"model":"a","messages":[{"role":"user"}],"mod\\u0065l":"b"}').param == "model"


def test_the_same_name_deeper_down_is_no_second_key() -> None:
    tool = {"type": "function", "function": {"parameters": {"properties": {"model": {}, "n": {}, "stream": {}}}}}
    request = read_request(body(tools=[tool], n=2, metadata={"messages": [1], "model": "x"}))

    assert (request.model, request.n) == ("swift-1", 2)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"model":"m","messages":[{"role":"user"}]',
        b'{"model":"m","messages":[{"role":"user"}]} x',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"m","messages":[{"role":"user"}],"x":NaN}',
        b'{"model":"m","messages":[{"role":"user"}],"x":Infinity}',
        b'{"model":"m","messages":[{"role":"user"}],"x":01}',
        b'\xef\xbb\xbf{"model":"m","messages":[{"role":"user"}]}',
    ],
)
def test_a_body_that_is_no_json_object_is_refused(document: bytes) -> None:
    assert refusal_of(document).param is None


@pytest.mark.parametrize(("levels", "is_fine"), [(63, True), (64, False), (5_000, False), (2_000_000, False)])
def test_depth_is_bounded(levels: int, is_fine: bool) -> None:
    document = b'{"model":"m","messages":[{"role":"user"}],"x":%b%b}' % (b"[" * levels, b"]" * levels)

    if is_fine:
        assert read_request(document).model == "m"
    else:
        refusal = refusal_of(document)
        assert "levels" in refusal.message or "more than 65,536" in refusal.message


def test_numbers_of_any_size_pass_where_they_mean_nothing_to_us() -> None:
    digits = b"9" * 6_000
    request = read_request(
        b'{"model":"m","messages":[{"role":"user"}],"x":%b,"y":1e999,"metadata":{"model":""},"n":1}' % digits
    )

    assert bytes(request.fields["x"]) == digits


def test_a_refusal_never_quotes_the_request() -> None:
    for fields in ({"model": "canary\n"}, {"messages": [{"role": {"canary": 1}}]}, {"tools": ["canary"]}):
        refusal = refusal_of(body(**fields))
        assert "canary" not in f"{refusal.message} {refusal.param}"


def test_inline_image_data_does_not_count_as_text_and_images_are_counted() -> None:
    data = "data:image/png;base64," + "A" * 100_000
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
    ]
    document = body(messages=[{"role": "user", "content": parts}])
    request = read_request(document)

    assert request.image_count == 2
    assert request.text_bytes == len(document) - len(data)


def test_an_image_under_an_escaped_name_is_still_counted() -> None:
    part = b'{"type":"im\\u0061ge_url","im\\u0061ge\\u005furl":{"url":"https://example.org/cat.png"}}'
    request = read_request(b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % part)

    assert request.image_count == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "JVBERi0xLjQ=", "filename": "a.txt"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "document_url", "document_url": "https://example.org/a.pdf"},
        {"type": "audio_url", "audio_url": {"url": "https://example.org/a.mp3"}},
        {"video_url": {"url": "https://example.org/a.mp4"}},
    ],
)
def test_what_no_number_of_bytes_bounds_counts_as_more_than_a_context(part: dict[str, Any]) -> None:
    request = read_request(body(messages=[{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]))

    assert request.image_count == MORE_THAN_A_CONTEXT


def test_audio_and_inline_texts_count_as_bytes() -> None:
    parts = [
        {"type": "input_audio", "input_audio": {"data": "A" * 500, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64," + "B" * 500}},
    ]
    document = body(messages=[{"role": "user", "content": parts}])

    request = read_request(document)
    assert (request.text_bytes, request.image_count) == (len(document), 0)


def test_odd_contents_are_for_the_provider_to_judge() -> None:
    for content in ([1, None, "x"], [{"type": 7, "image_url": 5}], {"image_url": "x"}, 5):
        assert read_request(body(messages=[{"role": "user", "content": content, "_url": 1}])).model == "swift-1"


def test_the_legacy_functions_are_noticed_only_without_tools() -> None:
    assert read_request(body(functions=[{"name": "f"}])).uses_functions
    assert not read_request(body(functions=[{"name": "f"}], tools=[{"type": "function"}])).uses_functions


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("web_search_options", {}),
        ("search_parameters", {"mode": "on"}),
        ("search_settings", {"include_domains": []}),
        ("plugins", [{"id": "web"}]),
        ("enable_search", True),
    ],
)
def test_what_runs_at_a_provider_is_refused_by_its_name(field: str, value: Any) -> None:
    assert refusal_of(body(**{field: value})).param == field
    assert field in read_request(body(**{field: None})).fields


@pytest.mark.parametrize(
    "tool", [{"type": "web_search"}, {"type": "mcp", "function": {"name": "f"}}, {}, {"google_search": {}}]
)
def test_only_tools_that_the_caller_runs_are_taken(tool: Any) -> None:
    function = {"type": "function", "function": {"name": "f"}}
    assert refusal_of(body(tools=[function, tool])).param == "tools[1]"
    assert read_request(body(tools=[function, {"type": "custom", "custom": {"name": "c"}}, {"function": {}}])).n == 1
