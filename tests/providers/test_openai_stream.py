from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.samples import TARGET
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.catalogue import ErrorRule
from waypost.providers import KINDS
from waypost.providers.kind import BadAnswer, StreamReader, UpstreamError
from waypost.providers.openai_stream import CALLS_MAX
from waypost.wire.canonical import Chunk, Usage, has_content


def stream(*events: Any) -> bytes:
    return b"".join([b"data: %b\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events])


def piece(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}], **more}


def call(**fields: Any) -> dict[str, Any]:
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    return fields | {"function": function}


def calls(*pieces: dict[str, Any]) -> dict[str, Any]:
    return piece({"tool_calls": list(pieces)})


def read(*events: Any, n: int = 1) -> tuple[StreamReader, list[Chunk]]:
    reader = KINDS["openai"].stream(n=n)
    return reader, reader.feed(stream(*events))


def tool_pieces(*events: Any) -> list[tuple[int, str, str, str]]:
    _, chunks = read(*events, piece(finish="stop"))
    return [(c.index, c.id, c.name, c.arguments) for chunk in chunks for c in chunk.tool_calls]


def test_a_complete_stream_ends_well() -> None:
    reader, chunks = read(piece({"role": "assistant"}), piece({"content": "a"}), piece(finish="stop"), b"[DONE]")

    reader.end()
    assert reader.is_done
    assert chunks == [Chunk(0, "a"), Chunk(0, finish_reason="stop")]


def test_pieces_without_content_are_not_handed_on() -> None:
    silent = [
        {"choices": []},
        {"choices": None},
        {},
        {"choices": [{}]},
        piece({"role": "assistant", "content": ""}),
        piece({"content": None, "tool_calls": [], "refusal": ""}),
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        b"",
    ]
    reader, chunks = read(*silent)
    assert chunks == []

    assert has_content(reader.feed(stream(piece({"content": "a"})))[0])


def test_a_missing_done_is_forgiven_when_every_choice_finished() -> None:
    reader, _ = read(piece({"content": "a"}, "stop"))

    reader.end()
    assert not reader.is_done


@pytest.mark.parametrize(
    "events",
    [
        (),
        (piece({"content": "a"}),),
        (piece({"content": "a"}), b"[DONE]"),
        (piece({"content": "a"}, ""), b"[DONE]"),
        (b"[DONE]", piece({"content": "a"}, "stop")),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, b"[DONE]"),
    ],
)
def test_an_end_without_a_finished_choice_is_no_success(events: tuple[Any, ...]) -> None:
    reader, _ = read(*events)

    with pytest.raises(BadAnswer):
        reader.end()


def test_every_choice_that_was_asked_for_has_to_finish() -> None:
    reader, _ = read(piece({"content": "a"}, "stop"), n=2)
    with pytest.raises(BadAnswer):
        reader.end()

    reader.feed(stream(piece({"content": "b"}, "length", index=1)))
    reader.end()


def test_a_truncated_last_event_does_not_count() -> None:
    reader = KINDS["openai"].stream()
    reader.feed(stream(piece({"content": "a"}, "stop"))[:-1])

    with pytest.raises(BadAnswer):
        reader.end()


@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"[]",
        b"7",
        b'{"choices":[{"delta":{"content":"a"}}',
        b"<html>",
        b'{"choices":{}}',
        b'{"choices":[null]}',
        b'{"choices":[{"delta":{"content":7}}]}',
        b'{"choices":[{"delta":[]}]}',
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
        b'{"choices":[{"index":1,"delta":{"content":"a"}}]}',
        b'{"choices":[{"index":-1,"delta":{"content":"a"}}]}',
        b'{"choices":[{"index":99999999999999999999999,"delta":{}}]}',
        b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":NaN}]}}]}',
        b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":1e999}]}}]}',
        b'{"choices":[{"finish_reason":1}]}',
        b'{"x":' + b"[" * 100_000,
        b'{"usage":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"choices":[],"error":' + b"9" * 5_000 + b"}",
    ],
)
def test_an_event_of_another_shape_is_a_bad_answer(event: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(event)


def test_a_line_without_end_is_a_bad_answer() -> None:
    reader = KINDS["openai"].stream()
    assert reader.feed(b"data: " + b"x" * 1_000_000) == []
    with pytest.raises(BadAnswer):
        reader.feed(b"x" * 100_000)


def test_a_page_instead_of_a_stream_is_a_bad_answer() -> None:
    reader = KINDS["openai"].stream()
    assert reader.feed(b"<html>\n<body>502 Bad Gateway</body>\n\n</html>\n") == []
    with pytest.raises(BadAnswer):
        reader.end()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (stream({"error": {"message": "boom", "type": "server_error"}}), ErrorCode.GENERATION_FAILED),
        (stream({"error": "boom"}), ErrorCode.GENERATION_FAILED),
        (stream({"error": {"code": 429, "message": "slow down"}}), ErrorCode.MODEL_OVERLOADED),
        (stream({"error": {"code": "content_filter"}}), ErrorCode.CONTENT_MODERATION_REJECTED),
        (stream({"error": {"type": "overloaded_error"}, "choices": []}), ErrorCode.MODEL_OVERLOADED),
        (b'event: error\ndata: {"error":{"type":"timeout_error"}}\n\n', ErrorCode.GENERATION_TIMEOUT),
        (b'event: error\ndata: {"code":"context_length_exceeded"}\n\n', ErrorCode.INPUT_VALIDATION_ERROR),
        (stream(piece({"content": ""}, "error")), ErrorCode.GENERATION_FAILED),
        (
            stream(piece(finish="error", error={"code": 502, "metadata": {"error_type": "provider_unavailable"}})),
            ErrorCode.MODEL_UNAVAILABLE,
        ),
        (stream(piece(finish="insufficient_system_resource")), ErrorCode.GENERATION_FAILED),
    ],
)
def test_an_error_event_is_the_providers_failure(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(UpstreamError) as raised:
        KINDS["openai"].stream().feed(data)

    assert raised.value.failure.code is code
    assert "boom" not in repr(raised.value)


@pytest.mark.parametrize(
    ("breaks", "declared"), [(b'{"error":{"code":429}}', UpstreamError), (b'{"choices":7}', BadAnswer)]
)
def test_what_was_said_before_an_error_does_not_depend_on_how_the_bytes_were_cut(
    breaks: bytes, declared: type[Exception]
) -> None:
    together = KINDS["openai"].stream()
    assert together.feed(stream(piece({"content": "a"}, "stop"), breaks, b"[DONE]")) == [
        Chunk(0, "a", finish_reason="stop")
    ]
    assert together.is_broken
    with pytest.raises(declared):
        together.end()

    apart = KINDS["openai"].stream()
    assert apart.feed(stream(piece({"content": "a"}, "stop"))) == [Chunk(0, "a", finish_reason="stop")]
    assert not apart.is_broken
    with pytest.raises(declared):
        apart.feed(stream(breaks))


def test_a_configured_rule_decides_about_error_events_too() -> None:
    rule = ErrorRule(ErrorCode.RATE_LIMITED, message_contains="Slow Down")
    reader = KINDS["openai"].stream(target=replace(TARGET, error_rules=(rule,)))

    with pytest.raises(UpstreamError) as raised:
        reader.feed(stream({"error": {"message": "please slow down"}}))
    assert raised.value.failure.code is ErrorCode.RATE_LIMITED


def test_an_empty_error_is_none() -> None:
    nothings: list[Any] = [None, False, "", {}, []]
    for nothing in nothings:
        assert len(read(piece({"content": "a"}, error=nothing))[1]) == 1


@pytest.mark.parametrize(
    ("sent", "ours"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("something_new", "stop"),
        ("tool_calls", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
    ],
)
def test_finish_reasons_are_spelled_our_way(sent: str, ours: str) -> None:
    assert read(piece({"content": "a"}, sent))[1][-1].finish_reason == ours


def test_a_choice_with_tool_calls_finishes_with_tool_calls_unless_it_was_cut() -> None:
    opened = calls(call(index=0, id="x", name="f", arguments="{"))

    assert read(opened, piece(finish="stop"))[1][-1].finish_reason == "tool_calls"
    cut = read(opened, piece(finish="length"))[1][-1]
    assert (cut.finish_reason, list(cut.tool_calls)) == ("length", [])


def test_parallel_calls_in_pieces() -> None:
    assert tool_pieces(
        calls(call(index=0, id="x", name="f", arguments="")),
        calls(call(index=1, id="y", name="g", arguments="")),
        calls(call(index=1, arguments="{}"), call(index=0, arguments="[")),
        calls(call(index=0, arguments="]")),
    ) == [(0, "x", "f", ""), (1, "y", "g", ""), (1, "y", "", "{}"), (0, "x", "", "["), (0, "x", "", "]")]


def test_arguments_wait_for_a_late_name() -> None:
    assert tool_pieces(
        calls(call(index=0, id="x", arguments='{"a"')),
        calls(call(index=0, arguments=":")),
        calls(call(index=0, name="f", arguments="1}")),
    ) == [(0, "x", "f", '{"a":1}')]


def test_whole_calls_under_index_zero_are_told_apart_by_their_ids() -> None:
    assert tool_pieces(
        calls(call(index=0, id="x", name="f", arguments="{}")), calls(call(index=0, id="y", name="f", arguments="[]"))
    ) == [(0, "x", "f", "{}"), (1, "y", "f", "[]")]


def test_whole_calls_in_one_piece_without_index_or_id_are_told_apart_by_position() -> None:
    assert tool_pieces(calls(call(name="f", arguments="{}"), call(name="f", arguments="[]"))) == [
        (0, "", "f", "{}"),
        (1, "", "f", "[]"),
    ]


def test_indexes_that_start_at_one_are_counted_from_zero() -> None:
    assert tool_pieces(calls(call(index=1, id="x", name="f")), calls(call(index=2, id="y", name="g"))) == [
        (0, "x", "f", ""),
        (1, "y", "g", ""),
        (0, "x", "", "{}"),
        (1, "y", "", "{}"),
    ]


def test_arguments_as_an_object_become_text() -> None:
    assert tool_pieces(calls(call(index=0, id="x", name="f", arguments={"a": [1]}))) == [(0, "x", "f", '{"a":[1]}')]


def test_the_legacy_function_call_is_a_call() -> None:
    assert tool_pieces(
        piece({"function_call": {"name": "f", "arguments": ""}}), piece({"function_call": {"arguments": "{}"}})
    ) == [(0, "", "f", ""), (0, "", "", "{}")]


def test_a_call_whose_name_never_comes_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        read(calls(call(index=0, id="x", arguments="{}")), piece(finish="tool_calls"))


def test_calls_and_arguments_in_waiting_are_bounded() -> None:
    reader, chunks = read(*[calls(call(index=i, id=str(i), name="f")) for i in range(2_000)])
    assert len(chunks) == CALLS_MAX
    assert reader.is_broken
    with pytest.raises(BadAnswer):
        read(*[calls(call(index=0, arguments="x" * 10_000)) for _ in range(7)])


def test_output_is_counted_in_bytes_of_utf8() -> None:
    reader, _ = read(
        piece({"content": "a€"}),
        piece({"reasoning": "ü"}),
        piece({"refusal": "no"}),
        calls(call(index=0, id="x", name="f", arguments="{}")),
    )

    assert reader.output_bytes == 4 + 2 + 2 + 3


def test_unknown_fields_of_the_first_event_are_counted() -> None:
    reader, _ = read(
        {"provider": "x", "x_groq": {}, "choices": [{"delta": {"content": "a", "annotations": []}}]}, {"more": 1}
    )

    assert reader.unknown_fields == 3


def test_fields_are_let_through_only_when_the_deployment_exposes_them() -> None:
    target = replace(TARGET, expose=("citations", "annotations", "id", "content"))
    reader = KINDS["openai"].stream(target=target)
    chunks = reader.feed(
        stream(
            {"id": "x", "citations": ["a\u00e9"], "choices": [{"delta": {"content": "a", "annotations": [1.0]}}]},
            {"citations": None, "choices": []},
        )
    )

    assert [(c.content, c.exposed or {}, c.exposed_top or {}) for c in chunks] == [
        ("", {}, {"citations": '["aé"]'.encode()}),
        ("a", {"annotations": b"[1.0]"}, {}),
        ("", {}, {"citations": b"null"}),
    ]


@pytest.mark.parametrize(
    "events",
    [
        (piece({"content": "a"}, "stop"), {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
        (piece({"content": "a"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 5}),),
        (
            piece({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}),
            piece({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 5}),
            piece({}, usage=None),
        ),
        (piece({"content": "a"}, "stop"), {"choices": None, "usage": {"prompt_tokens": 3, "completion_tokens": 5}}),
    ],
)
def test_usage_is_found_wherever_it_stands(events: tuple[Any, ...]) -> None:
    reader, _ = read(*events)

    assert reader.usage == Usage(3, output_tokens=5)
    assert reader.usage is not None


def test_usage_that_never_came_was_not_reported() -> None:
    reader, _ = read(piece({"content": "a"}, "stop", usage=None))

    assert reader.usage is None


def test_nothing_counts_after_done() -> None:
    reader, chunks = read(piece({"content": "a"}, "stop"), b"[DONE]", piece({"content": "b"}), b"not json")

    assert [chunk.content for chunk in chunks] == ["a"]
    assert reader.feed(b"garbage") == []
