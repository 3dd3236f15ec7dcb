"""Generated conversations and answers in OpenAI's Responses format: there and back nothing is lost.

WAYPOST_GENERATED=100000 makes that many of each instead of a few.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tests.wire.samples import AROUND, COST, ENVELOPE
from tests.wire.test_openai_responses_golden import FORMAT, KIND, OURS, TARGET, events_of, identity
from waypost.kit.values import as_dict, replace
from waypost.providers import openai_responses_build
from waypost.wire.canonical import (
    Block,
    Chunk,
    Citation,
    Completion,
    ImageBlock,
    RefusalBlock,
    Signature,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolCallDelta,
    Usage,
    choice_of,
)
from waypost.wire.conversation import (
    Call,
    Conversation,
    JsonOutput,
    Media,
    Part,
    Reasoning,
    Refused,
    Result,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
)
from waypost.wire.formats import conversation_of

GENERATED = int(os.environ.get("WAYPOST_GENERATED", "1000"))
ORG = b"o" * 16
PIECES = ("a", "Zürich", ' "q" \\ /', "\n", "\r\n", "\x00\x1f", "\u2028", "😀", "data: [DONE]\n\n", "</s>", "ß" * 40)
ARGUMENTS = ("{}", '{"a":1}', '{"city":"Łódź","days":[1,2]}', '{"q":"\\"\\n\\u0000"}')
REQUEST = FORMAT.read(b'{"model":"swift-1","input":"hi","stream":true}', AROUND)


class Dice(random.Random):
    """What may be said, at random."""

    def text(self) -> str:
        return "".join(self.choices(PIECES, k=self.randint(1, 6)))

    def media(self) -> Media:
        url = f"https://example.org/{self.randint(0, 99)}"
        kinds = (
            Media("image", "image/png", "iVBORw0KGgo=", detail=self.choice(("", "low", "high"))),
            Media("image", url=url),
            Media("document", "application/pdf", "JVBE", title="a.pdf"),
            Media("document", url=url),
        )
        return replace(self.choice(kinds))

    def conversation(self) -> Conversation:
        turns: list[Turn] = []
        for _ in range(self.randint(1, 4)):
            turns.append(
                Turn("user", [self.choice((Text(self.text()), self.media())) for _ in range(self.randint(1, 3))])
            )
            if self.random() < 0.5:
                turns += self.answered()
        tools = [
            Tool(f"f{at}", self.choice(("", self.text())), self.choice(("", '{"type":"object"}')), self.random() < 0.5)
            for at in range(self.randint(0, 3))
        ]
        choices = (None, ToolChoice("auto"), ToolChoice("required", ["f0"]), ToolChoice("tool", ["f0"]))
        outputs = (None, JsonOutput(), JsonOutput('{"type":"object"}', "n", "d", True))
        thinking = (None, Reasoning(effort="low", shows=False), Reasoning(effort="high"), Reasoning(is_adaptive=True))
        return Conversation(
            system=[Text(self.text())] if self.random() < 0.5 else [],
            turns=turns,
            tools=tools,
            tool_choice=self.choice(choices) if tools else None,
            is_parallel=self.choice((None, True, False)) if tools else None,
            output_tokens_max=self.choice((None, 7)),
            temperature=self.choice((None, 0.0, 1.5)),
            top_p=self.choice((None, 0.5)),
            output=self.choice(outputs),
            reasoning=self.choice(thinking),
            user=self.choice(("", "u")),
            verbosity=self.choice(("", "low")),
        )

    def answered(self) -> Iterator[Turn]:
        """What an assistant said, and the results of what it called."""
        said: list[Part] = []
        if self.random() < 0.4:
            said.append(Thinking(self.choice(("", self.text())), OURS))
        said += [Text(self.text()) for _ in range(self.randint(0, 2))]
        if self.random() < 0.2:
            said.append(Refused(self.text()))
        calls = [Call(f"call_{self.random()}", f"f{at}", self.choice(ARGUMENTS)) for at in range(self.randint(0, 3))]
        if said or calls:
            yield Turn("assistant", [*said, *calls])
        results: list[Part] = [
            Result(call.id, [self.choice((Text(self.text()), self.media()))], name=call.name) for call in calls
        ]
        if results:
            yield Turn("user", results)

    def blocks(self) -> list[Block]:
        blocks: list[Block] = []
        for _ in range(self.randint(1, 5)):
            signature = self.choice((None, Signature("openai-responses alpha", self.text())))
            url = Citation("web_search_result_location", url="https://example.org", title="t", text_start=1, text_end=3)
            kinds: tuple[Block, ...] = (
                TextBlock(self.text(), self.choice(((), (url,)))),
                RefusalBlock(self.text()),
                ThinkingBlock(self.text() if signature is None else self.choice(("", self.text())), signature),
                ImageBlock("image/png", "iVBORw0KGgo="),
                ToolCall(f"up_{self.random()}", "f", self.choice(ARGUMENTS)),
            )
            blocks.append(self.choice(kinds))
        # Calls stay open to the end of a stream, so nothing is told apart from an order in which they come last.
        return sorted(blocks, key=lambda block: isinstance(block, ToolCall))

    def pieces(self, text: str) -> Iterator[str]:
        while text:
            size = self.randint(1, len(text))
            yield text[:size]
            text = text[size:]

    def chunks(self, blocks: list[Block]) -> Iterator[Chunk]:
        """The same blocks as a stream brings them."""
        calls = 0
        for block in blocks:
            if isinstance(block, TextBlock):
                for at, piece in enumerate(self.pieces(block.text)):
                    yield Chunk(0, piece, opens_block=at == 0)
                if block.citations:
                    yield Chunk(0, citations=block.citations)
            elif isinstance(block, RefusalBlock):
                for piece in self.pieces(block.text):
                    yield Chunk(0, refusal=piece)
            elif isinstance(block, ThinkingBlock):
                for at, piece in enumerate(self.pieces(block.text)):
                    yield Chunk(0, reasoning=piece, opens_block=at == 0)
                if block.signature is not None:
                    yield Chunk(0, signature=block.signature)
            elif isinstance(block, ImageBlock):
                yield Chunk(0, images=[block])
            else:
                yield Chunk(0, tool_calls=[ToolCallDelta(calls, block.id, block.name, "")])
                for piece in self.pieces(block.arguments):
                    yield Chunk(0, tool_calls=[ToolCallDelta(calls, "", "", piece)])
                calls += 1
        yield Chunk(0, finish_reason="tool_calls" if calls else "stop")


def test_a_conversation_comes_back_as_it_went() -> None:
    dice = Dice(2026)
    for _ in range(GENERATED):
        sent = dice.conversation()
        assert openai_responses_build.losses(sent) == ()
        built = openai_responses_build.build(sent, OURS.origin)
        fields = {name: msgspec.json.decode(value) for name, value in built.items()}
        for item in fields["input"]:
            if item["type"] == "reasoning":  # as it comes back: sealed by us
                item["encrypted_content"] = ENVELOPE.seal(Signature(OURS.origin, item["encrypted_content"]), ORG)
        body = msgspec.json.encode({"model": "swift-1", **fields})
        again = conversation_of(FORMAT.read(body, AROUND))
        assert comparable(again) == comparable(sent), body


def test_a_stream_ends_with_the_whole_and_its_pieces_add_up() -> None:
    dice = Dice(6202)
    for _ in range(GENERATED):
        blocks = merged(dice.blocks())
        whole = json.loads(render(blocks))
        writer = FORMAT.stream(REQUEST, identity(REQUEST))
        answer = b"".join(writer.render([chunk]) for chunk in dice.chunks(blocks)) + writer.finish(Usage(), COST)
        events = events_of(answer)
        last = events[-1]["response"]
        assert [without_seals(item) for item in last["output"]] == [without_seals(item) for item in whole["output"]]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        check_items(events, last["output"])


def test_a_whole_answer_read_back_says_the_same() -> None:
    dice = Dice(2602)
    for _ in range(GENERATED):
        blocks = [block for block in dice.blocks() if not isinstance(block, ImageBlock)] or [TextBlock("a")]
        completion, _ = KIND.completion({}, render(blocks), target=TARGET)
        read = completion.choices[0].blocks
        assert [block.arguments for block in read if isinstance(block, ToolCall)] == [
            block.arguments for block in blocks if isinstance(block, ToolCall)
        ]
        for kind in (TextBlock, RefusalBlock, ThinkingBlock):
            assert [block.text for block in read if isinstance(block, kind)] == [
                block.text for block in blocks if isinstance(block, kind)
            ]
        opened = [
            ENVELOPE.open(block.signature.value, ORG)
            for block in read
            if isinstance(block, ThinkingBlock) and block.signature is not None
        ]
        assert opened == [block.signature for block in blocks if isinstance(block, ThinkingBlock) and block.signature]


def render(blocks: Sequence[Block]) -> bytes:
    has_calls = any(isinstance(block, ToolCall) for block in blocks)
    choice = choice_of(0, "tool_calls" if has_calls else "stop", blocks)
    return FORMAT.render(Completion([choice]), REQUEST, identity(REQUEST), Usage(), COST)


def merged(blocks: list[Block]) -> list[Block]:
    """Refusals in a row are one in a stream, and so is reasoning that goes on from text without a signature."""
    kept: list[Block] = []
    for block in blocks:
        last = kept[-1] if kept else None
        if isinstance(block, RefusalBlock) and isinstance(last, RefusalBlock):
            kept[-1] = RefusalBlock(last.text + block.text)
        elif (
            isinstance(block, ThinkingBlock)
            and isinstance(last, ThinkingBlock)
            and not last.signature
            and not block.text
        ):
            kept[-1] = ThinkingBlock(last.text, block.signature)
        else:
            kept.append(block)
    return kept


def check_items(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Each item begins once and ends once as it stands in the response; its deltas add up to what it says."""
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = {event["output_index"]: event["item"] for event in events if event["type"] == "response.output_item.done"}
    assert added == [item["id"] for item in output]
    assert [done[at] for at in range(len(output))] == output
    said = dict.fromkeys(added, "")
    for event in events:
        if event["type"].endswith(".delta"):
            said[event["item_id"]] += event["delta"]
    for item in output:
        parts = [*item.get("content", ()), *item.get("summary", ())]
        texts = [part.get("text") or part.get("refusal") for part in parts] + [item.get("arguments", "")]
        assert said[item["id"]] == "".join(texts)


def without_seals(item: dict[str, Any]) -> dict[str, Any]:
    """An envelope has a nonce of its own: compared by what is in it."""
    sealed = item.get("encrypted_content")
    return item if sealed is None else item | {"encrypted_content": repr(ENVELOPE.open(sealed, ORG))}


def comparable(conversation: Conversation) -> object:
    return json.loads(msgspec.json.encode(conversation, enc_hook=as_dict))
