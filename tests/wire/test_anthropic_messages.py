from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.anthropic_samples import around, asked, request_of
from waypost.kit.errors import ErrorCode, Refusal
from waypost.wire.anthropic_messages import BETAS_MAX, CLIENT_TOOL_BYTES, read_counted, read_request
from waypost.wire.request import MORE_THAN_A_CONTEXT

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def refusal_of(body: bytes, **headers: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read_request(body, around(**headers))
    assert refused.value.code is ErrorCode.INPUT_VALIDATION_ERROR
    return refused.value


def test_a_plain_request_has_its_defaults() -> None:
    request = request_of()

    assert (request.format, request.model, request.is_stream) == ("anthropic_messages", "swift-1", False)
    assert (request.n, request.output_tokens_max, request.image_count) == (1, 1024, 0)
    assert request.text_bytes == len(asked())
    assert request.upstream_headers == b""


def test_unknown_fields_are_kept_as_they_came() -> None:
    body = asked()[:-1] + b', "context_management": {"edits" : [] }}'

    assert bytes(read_request(body, around()).fields["context_management"]) == b'{"edits" : [] }'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "../x"}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"stream": "yes"}, "stream"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"thinking": 1}, "thinking"),
        ({"top_k": -1}, "top_k"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"tools": [{"name": "f"}, {"type": "web_search_20250305", "name": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools[0].type"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal_of(asked(**fields)).param == param


def test_a_field_that_bills_must_not_stand_twice() -> None:
    assert refusal_of(asked()[:-1] + b', "max_tokens": 9}').param == "max_tokens"


def test_what_is_missing_is_named() -> None:
    body = json.loads(asked())
    del body["max_tokens"]

    assert refusal_of(json.dumps(body).encode()).param == "max_tokens"


def test_betas_go_to_providers_of_this_format_and_no_other_header_does() -> None:
    headers = around(anthropic_beta="interleaved-thinking-2025-05-14, files-api-2025-04-14,", x_secret="s")

    sent = request_of(headers).upstream_headers

    assert sent == b"anthropic-beta: interleaved-thinking-2025-05-14,files-api-2025-04-14\r\n"


@pytest.mark.parametrize("beta", ["a\x00b", "a b", ",".join(["b"] * (BETAS_MAX + 1)), "context-1m-2025-08-07"])
def test_a_beta_that_is_none_or_changes_prices_is_refused(beta: str) -> None:
    assert refusal_of(asked(), anthropic_beta=beta).param == "anthropic-beta"


def test_both_versions_of_the_api_are_taken() -> None:
    for version in ("2023-06-01", "2026-10-21"):
        request = request_of(around(anthropic_version=version), temperature=0.5)
        assert bytes(request.fields["temperature"]) == b"0.5"


def test_another_version_is_refused() -> None:
    assert refusal_of(asked(), anthropic_version="2023-01-01").param == "anthropic-version"


@pytest.mark.parametrize(
    ("content", "count", "inline"),
    [
        ([PNG, PNG], 2, 24),
        ([{"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}], 1, 0),
        ([{"type": "tool_result", "tool_use_id": "t", "content": [PNG]}], 1, 12),
        ([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}], 0, 0),
        ([{"type": "document", "source": {"type": "content", "content": [PNG]}}], 1, 12),
        ([{"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}], MORE_THAN_A_CONTEXT, 0),
        ([{"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}], MORE_THAN_A_CONTEXT, 0),
        ([{"type": "image", "source": {"type": "file", "file_id": "file_1"}}], MORE_THAN_A_CONTEXT, 0),
    ],
)
def test_media_count_by_the_piece_and_pages_as_more_than_fits(content: Any, count: int, inline: int) -> None:
    messages = [{"role": "user", "content": content}]
    request = request_of(messages=messages)

    assert request.image_count == count
    assert request.text_bytes == len(asked(messages=messages)) - inline


def test_an_escaped_spelling_hides_no_image() -> None:
    body = asked(messages=[{"role": "user", "content": [PNG]}]).replace(b'"image"', b'"im\\u0061ge"')

    assert read_request(body, around()).image_count == 1


def test_room_is_left_for_tools_that_a_provider_describes() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}]

    assert request_of(tools=tools).text_bytes == len(asked(tools=tools)) + CLIENT_TOOL_BYTES


def test_tokens_are_counted_without_a_length() -> None:
    body = json.loads(asked())
    del body["max_tokens"]

    assert read_counted(json.dumps(body).encode(), around()).model == "swift-1"
