"""Anthropic Messages as tests read and write them, and answers as Anthropic's own SDK understands them."""

from __future__ import annotations

import json
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.wire.samples import ENVELOPE, identity_for
from waypost.wire.anthropic_messages import read_request
from waypost.wire.canonical import Signature
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around, ChatRequest

ORG = b"o" * 16
HEADERS = {b"anthropic-version": b"2023-06-01"}
_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def around(**headers: str) -> Around:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Around(lambda sealed: ENVELOPE.open(sealed, ORG), headers=HEADERS | sent)


def asked(**fields: Any) -> bytes:
    body = {"model": "swift-1", "max_tokens": 1024, "messages": [{"role": "user", "content": "hi"}]} | fields
    return json.dumps(body).encode()


def request_of(headers: Around | None = None, **fields: Any) -> ChatRequest:
    return read_request(asked(**fields), headers or around())


def identity() -> AnswerIdentity:
    return identity_for(request_of())


def sealed(origin: str, value: str) -> str:
    return ENVELOPE.seal(Signature(origin, value), ORG)


def opened(shown: str) -> Signature | None:
    return ENVELOPE.open(shown, ORG)


def named_events(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event; the event's name must be its type."""
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, _, data = block.partition("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def accumulated(stream: bytes) -> Message:
    """What the SDK makes of a complete stream; every event must be one of its types, in an order that it takes."""
    snapshot: Any = None
    inputs: dict[int, bytes] = {}
    open_block = -1
    for sent in named_events(stream):
        if sent["type"] == "ping":
            continue
        event = _EVENT.validate_python(sent)
        match event.type:
            case "content_block_start":
                assert open_block < 0
                assert event.index == len(snapshot.content)
                open_block = event.index
            case "content_block_delta":
                assert event.index == open_block
            case "content_block_stop":
                assert event.index == open_block
                open_block = -1
            case "message_delta" | "message_stop":
                assert open_block < 0
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=inputs)
    assert sent["type"] == "message_stop"
    return Message.model_validate(snapshot.to_dict())


def meaning(message: Message) -> Any:
    """What a message says, seals opened."""
    blocks = []
    for block in message.content:
        shown = block.model_dump(exclude_none=True)
        for field in ("signature", "data"):
            if field in shown:
                shown[field] = opened(shown[field])
        blocks.append(shown)
    usage = message.usage  # the SDK's accumulation leaves out its other fields
    counts = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens, usage.output_tokens)
    return blocks, message.stop_reason, message.stop_sequence, counts
