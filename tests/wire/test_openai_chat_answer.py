from __future__ import annotations

import json
from typing import cast

import pytest
from openai.types.chat import ChatCompletion

from tests.wire.samples import AROUND, COST, ask, identity_for
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.values import replace
from waypost.wire.canonical import (
    Audio,
    Block,
    Choice,
    Chunk,
    Completion,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    Usage,
    choice_of,
    has_content,
)
from waypost.wire.logprobs import Logprobs, TokenLogprob
from waypost.wire.openai_chat_answer import render_completion
from waypost.wire.openai_chat_stream import StreamRenderer
from waypost.wire.sse import HEARTBEAT

IDENTITY = identity_for(ask("text"))


def deltas(out: bytes) -> list[dict[str, object]]:
    return [json.loads(event[6:])["choices"][0]["delta"] for event in out.decode().split("\n\n")[:-1]]


@pytest.mark.parametrize(
    ("chunk", "is_content"),
    [
        (Chunk(0), False),
        (Chunk(0, logprobs=Logprobs([])), False),
        (Chunk(0, exposed_top={"citations": b"[]"}), False),
        (Chunk(0, "a"), True),
        (Chunk(0, reasoning="a"), True),
        (Chunk(0, refusal="a"), True),
        (Chunk(0, tool_calls=[ToolCallDelta(0, "", "f", "")]), True),
        (Chunk(0, audio=Audio(data="AA==")), True),
        (Chunk(0, finish_reason="stop"), True),
    ],
)
def test_content_is_what_a_caller_would_see_of_the_answer(chunk: Chunk, is_content: bool) -> None:
    assert has_content(chunk) is is_content


def test_tool_call_ids_are_stable_within_an_organisation_and_differ_between_them() -> None:
    other_org = replace(IDENTITY, org_id=b"p" * 16)
    later = replace(IDENTITY, completion_id="chatcmpl-later")

    ours = IDENTITY.tool_call_id("toolu_1", choice=0, index=0)
    assert ours == later.tool_call_id("toolu_1", choice=0, index=3)
    assert ours != other_org.tool_call_id("toolu_1", choice=0, index=0)
    assert len(ours) == len("call_") + 24
    assert ours.startswith("call_")


def test_calls_without_an_upstream_id_get_ids_of_their_own() -> None:
    later = replace(IDENTITY, completion_id="chatcmpl-later")
    ids = [IDENTITY.tool_call_id("", choice=c, index=i) for c in range(2) for i in range(2)]

    assert len({*ids, later.tool_call_id("", choice=0, index=0)}) == 5


def test_content_is_null_only_where_something_else_stands_in_its_place() -> None:
    def content(**fields: object) -> object:
        choice = Choice(0, "stop", **fields)  # type: ignore[arg-type]
        return json.loads(render_completion(Completion([choice]), IDENTITY, Usage(), COST))["choices"][0]["message"][
            "content"
        ]

    assert content() == ""
    assert content(tool_calls=[ToolCall("", "f", "{}")]) is None
    assert content(content="a", tool_calls=[ToolCall("", "f", "{}")]) == "a"
    assert content(refusal="no") is None
    assert content(audio=Audio("audio_1", "AA==", "hi")) is None


def test_audio_is_rendered_under_an_id_of_ours() -> None:
    choice = Choice(0, "stop", audio=Audio("audio_up", "AA==", "hi"))
    answer = render_completion(Completion([choice]), IDENTITY, Usage(), COST)

    audio = ChatCompletion.model_validate_json(answer, strict=True).choices[0].message.audio
    assert audio is not None
    assert (audio.data, audio.transcript, audio.expires_at) == ("AA==", "hi", IDENTITY.created_s + 3_600)
    assert b"audio_up" not in answer


def test_exposed_fields_stand_last() -> None:
    choice = Choice(0, "stop", "a", exposed={"annotations": b"[1]"})
    answer = json.loads(render_completion(Completion([choice], {"citations": b'["x"]'}), IDENTITY, Usage(), COST))

    assert list(answer)[-1] == "citations"
    assert list(answer["choices"][0]["message"])[-1] == "annotations"


def test_exposed_fields_of_a_stream_have_events_of_their_own() -> None:
    chunk = Chunk(0, "a", exposed={"annotations": b"[1]"}, exposed_top={"citations": b'["x"]'})
    for include_usage in (False, True):
        out = StreamRenderer(IDENTITY, include_usage).render([chunk])
        last = json.loads(out.decode().split("\n\n")[-2][6:])

        assert deltas(out)[1:] == [{"content": "a"}, {"annotations": [1]}]
        assert last["citations"] == ["x"]


def test_nothing_to_show_is_no_bytes() -> None:
    assert StreamRenderer(IDENTITY, True).render([]) == b""


def test_several_kinds_of_content_in_one_piece_become_events_of_their_own_in_one_order() -> None:
    chunk = Chunk(0, "text", "thought", "no", [ToolCallDelta(0, "x", "f", "{}")], Audio("i", "AA==", "t"))
    shown = deltas(StreamRenderer(IDENTITY, False).render([chunk]))

    assert [next(iter(delta)) for delta in shown] == [
        *("role", "reasoning_content", "reasoning_details", "content", "refusal", "tool_calls", "tool_calls", "audio")
    ]


SIGNED = Signature("anthropic", "s|signed")


def details(message: dict[str, object]) -> list[tuple[object, object, Signature | None]]:
    """Type, text and what is sealed, of each stretch of reasoning."""
    shown = []
    for at, each in enumerate(cast(list[dict[str, object]], message["reasoning_details"])):
        assert each["index"] == at
        sealed = cast(str, each.get("signature") or each.get("data"))
        shown.append((each["type"], each.get("text"), AROUND.open_sealed(sealed)))
    return shown


def test_reasoning_comes_with_its_signatures_whole_and_streamed() -> None:
    blocks: list[Block] = [ThinkingBlock("a b", SIGNED), ThinkingBlock("", SIGNED), TextBlock("c"), ThinkingBlock("d")]
    whole = json.loads(render_completion(Completion([choice_of(0, "stop", blocks)]), IDENTITY, Usage(), COST))
    renderer = StreamRenderer(IDENTITY, False)
    out = renderer.render(
        [
            Chunk(0, reasoning="a", opens_block=True),
            Chunk(0, reasoning=" b"),
            Chunk(0, signature=SIGNED),
            Chunk(0, signature=SIGNED, opens_block=True),
            Chunk(0, "c", opens_block=True),
            Chunk(0, reasoning="d", opens_block=True),
            Chunk(0, finish_reason="stop"),
        ]
    )
    streamed = deltas(out + renderer.finish(Usage(), COST).partition(b"data: [DONE]")[0])
    entries = [entry for delta in streamed for entry in cast(list[object], delta.get("reasoning_details", []))]
    none = Signature("", "")

    expected = [("reasoning.text", "a b", SIGNED), ("reasoning.encrypted", None, SIGNED), ("reasoning.text", "d", none)]
    assert details(whole["choices"][0]["message"]) == expected
    assert details({"reasoning_details": entries}) == expected
    assert [delta["reasoning_content"] for delta in streamed if "reasoning_content" in delta] == ["a", " b", "d"]


def test_reasoning_of_two_choices_is_kept_apart() -> None:
    renderer = StreamRenderer(IDENTITY, False)
    out = renderer.render(
        [Chunk(0, reasoning="a"), Chunk(1, reasoning="b"), Chunk(0, "x"), Chunk(1, reasoning="c"), Chunk(1, "y")]
    )
    entries = [delta["reasoning_details"] for delta in deltas(out) if "reasoning_details" in delta]

    assert [each[0]["text"] for each in cast(list[list[dict[str, str]]], entries)] == ["a", "bc"]


def test_log_probabilities_stand_with_the_text_they_are_about_once() -> None:
    logprobs = Logprobs([TokenLogprob("a", -1.0)])
    asked = replace(IDENTITY, wants_logprobs=True)
    out = StreamRenderer(asked, False).render([Chunk(0, "a", "b", "c", logprobs=logprobs)])

    choices = [json.loads(event[6:])["choices"][0] for event in out.decode().split("\n\n")[:-1]]
    assert [choice["delta"] for choice in choices if choice["logprobs"]] == [{"content": "a"}]


def test_log_probabilities_that_nobody_asked_for_are_left_out() -> None:
    unasked = replace(IDENTITY, wants_logprobs=False)
    chunk = Chunk(0, "a", logprobs=Logprobs([TokenLogprob("a", -1.0)]))
    choice = Choice(0, "stop", "a", logprobs=chunk.logprobs)

    with_them = StreamRenderer(unasked, False).render([chunk, Chunk(0, logprobs=chunk.logprobs)])
    assert with_them == StreamRenderer(unasked, False).render([Chunk(0, "a")])
    assert b'"logprobs":null' in render_completion(Completion([choice]), unasked, Usage(), COST)


def test_finish_reasons_come_last_in_the_order_of_choices() -> None:
    renderer = StreamRenderer(IDENTITY, True)
    begun = renderer.render([Chunk(1, "b", finish_reason="stop"), Chunk(0, "a"), Chunk(0, finish_reason="length")])
    ended = renderer.finish(Usage(3, 2, 1, 1, 7, 5), COST)

    assert b'"finish_reason":"' not in begun
    *events, usage, done, rest = ended.decode().split("\n\n")
    assert [json.loads(event[6:])["choices"][0]["finish_reason"] for event in events] == ["length", "stop"]
    assert json.loads(usage[6:])["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 2,
        "cache_write_tokens": 2,
        "audio_tokens": 0,
    }
    assert (done, rest) == ("data: [DONE]", "")


def test_a_broken_stream_ends_in_an_error_event_without_a_done() -> None:
    renderer = StreamRenderer(IDENTITY, True)
    renderer.render([Chunk(0, "a")])
    event = renderer.fail(Refusal(ErrorCode.GENERATION_FAILED), "req_1")

    assert json.loads(event[6:])["error"]["code"] == "GENERATION_FAILED"
    assert event.endswith(b"\n\n")
    assert b"[DONE]" not in event


def test_the_legacy_function_call_has_room_for_one_call() -> None:
    legacy = replace(IDENTITY, uses_functions=True)
    calls = [ToolCallDelta(0, "x", "f", "{}"), ToolCallDelta(1, "y", "g", "{}")]

    assert deltas(StreamRenderer(legacy, False).render([Chunk(0, tool_calls=calls)]))[1:] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    ]


def test_the_heartbeat_is_a_comment() -> None:
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")
