"""How a test steers an answer without any special header: words in the request itself.

In the last user message, a line that starts with `sim:` holds `name=value` pairs separated by spaces:

    sim: words=50 delay_ms=5 tools=2

In the upstream model's name they follow the first colon, as `name-value` separated by colons:
`sim-large:words-50:delay_ms-5`. The message wins over the name. The pairs are the fields of `Directives`;
an unknown name is refused in a message, and ignored in a model's name, where a colon may mean something else.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

Tokens = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=600_000)]


class Directives(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    words: Tokens | None = None  # output tokens of the text; by default 20 … 60
    say: str = ""  # the first word of the text, as given
    delay_ms: Milliseconds = 0  # between two output tokens, streamed or not
    first_ms: Milliseconds = 0  # before the first output token
    tools: Annotated[int, msgspec.Meta(ge=0, le=128)] | None = None  # tool calls to make, if tools are given
    reasoning: Tokens | None = None  # reasoning tokens before the answer; by default from reasoning_effort
    refusal: bool = False  # 1: refuse to answer
    finish: Literal["", "stop", "length", "tool_calls", "content_filter", "function_call", "pause"] = ""
    input: Tokens | None = None  # prompt tokens, instead of counting
    cached: Tokens | None = None  # of those, read from the cache
    cache_write: Tokens = 0  # of those, written to the cache
    cache_write_1h: Tokens = 0  # of those, written to the cache for an hour, at providers who tell it apart
    redacted: bool = False  # 1: the reasoning is hidden, at providers who hide it
    cite: bool = False  # 1: the text cites the first document, at providers who cite


_LINE = re.compile(r"^sim:(.*)$", re.MULTILINE)


def read_directives(user_text: str, model: str) -> Directives:
    """Raises msgspec.ValidationError for an unknown name or a value out of range in the message."""
    found = pairs_of(user_text, model, Directives)
    return msgspec.convert(found, Directives, strict=False) if found else _NONE


def pairs_of(user_text: str, model: str, known: type[msgspec.Struct]) -> dict[str, str]:
    """The pairs of a model's name that are fields of `known`, and all of a message; the message wins."""
    found: dict[str, str] = {}
    if ":" in model:
        for pair in model.split(":")[1:]:
            name, _, value = pair.partition("-")
            if name in known.__struct_fields__:
                found[name] = value
    if "sim:" in user_text:
        for line in _LINE.findall(user_text):
            for pair in line.split():
                name, equals, value = pair.partition("=")
                if equals:
                    found[name] = value
    return found


_NONE = Directives()
