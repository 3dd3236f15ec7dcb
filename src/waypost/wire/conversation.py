"""Where wire formats meet: what a caller asks, whatever format it was written in.

A request goes to a provider of its own format as it came, field by field. To any other provider it goes through these
values: the caller's format is read into a `Conversation`, the provider's kind writes it in its own words. What a
format says and these values have no place for is named in `unknown`, by the caller's name for it: nothing gets lost in
silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.wire.canonical import Citation, Signature

# ── parts of a message ──────────────────────────────────────────────────────────────────────────────────────────────


class CacheMark(msgspec.Struct, frozen=True, gc=False):
    """The prompt up to and including the part that carries it may be cached. `ttl` is "5m" or "1h"."""

    ttl: str = "5m"


class Text(msgspec.Struct, gc=False):
    text: str
    cache: CacheMark | None = None
    citations: Sequence[Citation] = ()  # of an assistant's earlier text


class Media(msgspec.Struct, gc=False):
    """An image, document, or piece of audio or video: base64 `data`, or the `url` where the provider may fetch it."""

    kind: str  # "image" | "document" | "audio" | "video"
    media_type: str = ""  # "image/png"; "" when only a URL is known
    data: str = ""
    url: str = ""
    detail: str = ""  # of an image: "low" | "high" | "auto", "" when not said
    title: str = ""  # of a document: its title or file name
    context: str = ""  # of a document: what is said about it
    wants_citations: bool = False
    cache: CacheMark | None = None

    @property
    def wishes(self) -> tuple[str, ...]:
        """What is asked about a document beside reading it, by name: most formats have no words for it."""
        return tuple(name for name, has in (("context", self.context), ("citations", self.wants_citations)) if has)


class Thinking(msgspec.Struct, gc=False):
    """An assistant's earlier reasoning, with the signature that we sealed. Without one it came from elsewhere."""

    text: str
    signature: Signature | None = None


class Call(msgspec.Struct, gc=False):
    """A tool call that an assistant made earlier. `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str
    signature: Signature | None = None
    cache: CacheMark | None = None


class Result(msgspec.Struct, gc=False):
    """What a tool gave back for the call of that id."""

    call_id: str
    parts: Sequence[Text | Media]
    is_error: bool = False
    name: str = ""  # of the function, where the format says it again
    cache: CacheMark | None = None


class Refused(msgspec.Struct, gc=False):
    """An assistant's earlier refusal."""

    text: str


Part = Text | Media | Thinking | Call | Result | Refused


class Turn(msgspec.Struct, gc=False):
    role: str  # "system" (in the middle of a conversation) | "user" | "assistant"
    parts: Sequence[Part]
    name: str = ""  # of the participant, where a format has it


# ── what may be called, and how to answer ───────────────────────────────────────────────────────────────────────────


class Tool(msgspec.Struct, gc=False):
    """A function. `parameters` is a JSON schema as JSON text, "" when it takes none."""

    name: str
    description: str = ""
    parameters: str = ""
    is_strict: bool | None = None
    cache: CacheMark | None = None


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """`mode` is "auto", "none", "required" (any tool), or "tool" (the named ones; formats without a list take one)."""

    mode: str
    names: Sequence[str] = ()


class JsonOutput(msgspec.Struct, gc=False):
    """The answer is to be JSON: any object where `schema` (JSON text) is "", else one that fits the schema."""

    schema: str = ""
    name: str = ""
    description: str = ""
    is_strict: bool | None = None


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """How much to think. Exactly one of the first three says it; `shows` whether the caller wants to read it."""

    effort: str = ""  # "none" | "minimal" | "low" | "medium" | "high" | "xhigh"
    budget_tokens: int | None = None
    is_adaptive: bool = False  # as much as the model finds right
    shows: bool = True


class ImageOutput(msgspec.Struct, frozen=True, gc=False):
    """How the images that are asked for shall be; "" where the caller said nothing."""

    size: str = ""  # "1024x1024", in pixels
    aspect: str = ""  # "16:9"
    resolution: str = ""  # "1K" | "2K" | "4K"
    quality: str = ""
    media_type: str = ""  # "image/png"


class Embedding(msgspec.Struct, frozen=True, gc=False):
    """What a vector shall be like; None and "" where the caller said nothing. `task` is Gemini's word, such as
    `RETRIEVAL_QUERY`, `title` that of a document."""

    dimensions: int | None = None
    task: str = ""
    title: str = ""


class Conversation(msgspec.Struct, gc=False):
    """A request in nobody's format. None and empty mean that the caller said nothing about it."""

    system: Sequence[Text]
    turns: Sequence[Turn]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice | None = None
    is_parallel: bool | None = None  # several tool calls at once
    n: int = 1
    output_tokens_max: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    output: JsonOutput | None = None
    reasoning: Reasoning | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    user: str = ""  # the caller's word for its own user
    service_tier: str = ""
    verbosity: str = ""
    image: ImageOutput | None = None  # the answer is to be images
    embedding: Embedding | None = None  # the answer is to be a vector for each turn
    unknown: Sequence[str] = ()  # fields of the caller's format that have no place here, by their names there
