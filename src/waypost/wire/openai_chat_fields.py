"""The fields of a chat completion request that are read: what of it routes, bills, or is checked."""

from __future__ import annotations

from typing import Annotated

import msgspec

from waypost.wire.request import MESSAGES_MAX, OUTPUT_TOKENS_MAX

CHOICES_MAX = 128
Count = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]


class Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class Tool(msgspec.Struct, gc=False):
    type: str = ""
    function: Object | None = None


class Message(msgspec.Struct, gc=False):
    role: str


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class Known(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    max_tokens: Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = None
    tools: list[Tool] | None = None
    functions: list[Object] | None = None
    response_format: Object | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
