"""Where wire formats meet: what a model answered, whoever asked in whatever format.

Providers' answers are read into these values and callers' answers are written from them; `wire.conversation` is the
same for what is asked. A whole answer is a `Completion` of `Choice`s, a streamed one a row of `Chunk`s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.wire.logprobs import Logprobs


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Units in disjoint classes: nothing is counted in two of them, and the token classes add up to everything billed
    by token.

    `reasoning_tokens` is a part of `output_tokens` and is not counted again. Values are as a provider reported them;
    `metering.usage` decides whether they can be believed, and sets `is_estimated` where it had to count itself.
    """

    input_tokens: int = 0  # neither read from nor written to a cache
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0  # not read from a cache
    image_input_tokens: int = 0  # not read from a cache
    audio_output_tokens: int = 0
    images: int = 0  # generated
    duration_ms: int = 0  # of video or audio, generated or read
    characters: int = 0  # of text that became speech
    is_estimated: bool = False

    @property
    def all_input_tokens(self) -> int:
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
        )

    @property
    def all_output_tokens(self) -> int:
        return self.output_tokens + self.audio_output_tokens

    @property
    def has_rare_units(self) -> bool:
        """Whether anything was used that hardly any call uses: sound, images, seconds, characters."""
        return bool(
            self.audio_input_tokens
            or self.image_input_tokens
            or self.audio_output_tokens
            or self.images
            or self.duration_ms
            or self.characters
        )


# ── what was said ───────────────────────────────────────────────────────────────────────────────────────────────────


class Audio(msgspec.Struct, gc=False):
    """Spoken output, or a piece of it: base64 data and its transcript."""

    id: str = ""  # as the upstream called it
    data: str = ""
    transcript: str = ""


class Signature(msgspec.Struct, frozen=True, gc=False):
    """What a provider signed its thinking with, or its thinking encrypted. Callers see it sealed (`wire.envelope`).

    `origin` says who can read it again: the provider kind, or the one provider whose accounts alone can.
    """

    origin: str
    value: str


class Citation(msgspec.Struct, gc=False):
    """Where a piece of text comes from. `kind` is Anthropic's word for the location: `char_location`,
    `page_location`, `content_block_location`, `search_result_location`, `web_search_result_location`. `start` and
    `end` count what the kind says: characters, pages or blocks of the source; `text_start` and `text_end` are
    characters of the answer's text, −1 when unknown."""

    kind: str
    cited_text: str = ""
    url: str = ""
    title: str = ""
    source_index: int = 0
    start: int = 0
    end: int = 0
    text_start: int = -1
    text_end: int = -1


class TextBlock(msgspec.Struct, gc=False):
    text: str
    citations: Sequence[Citation] = ()


class ThinkingBlock(msgspec.Struct, gc=False):
    """Reasoning shown (`text`), or hidden and only signed (`text` is "")."""

    text: str
    signature: Signature | None = None


class RefusalBlock(msgspec.Struct, gc=False):
    text: str


class ImageBlock(msgspec.Struct, gc=False):
    """An image that the model made: base64 data."""

    media_type: str
    data: str


class ToolCall(msgspec.Struct, gc=False):
    """`id` is the upstream's, "" when it gave none; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str
    signature: Signature | None = None  # Gemini signs its calls


Block = TextBlock | ThinkingBlock | RefusalBlock | ImageBlock | ToolCall


class ToolCallDelta(msgspec.Struct, gc=False):
    """A piece of a tool call. The first one of an index has the name, and only that one."""

    index: int
    id: str  # as the upstream called it, "" when unknown
    name: str  # "" in every piece but the first
    arguments: str
    signature: Signature | None = None  # in the first piece


FINISH_REASONS = ("stop", "stop_sequence", "length", "tool_calls", "content_filter", "refusal", "pause")
"""Why an answer ended, in the finest distinction that a format makes. A format without a word of its own writes the
nearest: `stop_sequence` and `pause` are kinds of `stop`, `refusal` is one of `content_filter`."""


class Choice(msgspec.Struct, gc=False):
    """One answer, flat: all of its text, all of its calls. Where the order of blocks, signatures or citations matter,
    `blocks` has them too, and says the same; `blocks_of` reads either."""

    index: int
    finish_reason: str  # one of FINISH_REASONS
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCall] = ()
    audio: Audio | None = None
    logprobs: Logprobs | None = None
    exposed: dict[str, bytes] | None = None  # JSON values by name, let through at the end of the message
    blocks: Sequence[Block] = ()
    stop_sequence: str = ""  # which one, when the finish reason is that


def choice_of(index: int, finish_reason: str, blocks: Sequence[Block], *, stop_sequence: str = "") -> Choice:
    """The choice that consists of these blocks."""
    return Choice(
        index,
        finish_reason,
        content="".join([block.text for block in blocks if isinstance(block, TextBlock)]),
        reasoning="".join([block.text for block in blocks if isinstance(block, ThinkingBlock)]),
        refusal="".join([block.text for block in blocks if isinstance(block, RefusalBlock)]),
        tool_calls=[block for block in blocks if isinstance(block, ToolCall)],
        blocks=blocks,
        stop_sequence=stop_sequence,
    )


def blocks_of(choice: Choice) -> Sequence[Block]:
    """What was said, in order: reasoning, text, refusal, calls where nothing finer is known."""
    if choice.blocks:
        return choice.blocks
    blocks: list[Block] = []
    if choice.reasoning:
        blocks.append(ThinkingBlock(choice.reasoning))
    if choice.content:
        blocks.append(TextBlock(choice.content))
    if choice.refusal:
        blocks.append(RefusalBlock(choice.refusal))
    blocks += choice.tool_calls
    return blocks


class Completion(msgspec.Struct, gc=False):
    """A whole answer: choices in the order of their indexes. `unknown_fields` is what was dropped, if counted."""

    choices: list[Choice]
    exposed: dict[str, bytes] | None = None
    unknown_fields: int = 0
    answer_id: str = ""  # the provider's name for it, which its bill may have; callers get one of ours
    vectors: Sequence[bytes] = ()  # of embeddings, in the order of their inputs: little-endian 32-bit floats

    @property
    def has_output(self) -> bool:
        """Whether anything was said: `output_bytes` is more than 0."""
        for choice in self.choices:
            if choice.content or choice.reasoning or choice.refusal:
                return True
        return self.output_bytes > 0

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of everything said, for an estimate where the provider counted nothing."""
        total = sum(len(vector) for vector in self.vectors) if self.vectors else 0
        for choice in self.choices:
            total += len(choice.content.encode()) + len(choice.reasoning.encode()) + len(choice.refusal.encode())
            for call in choice.tool_calls:
                total += len(call.name) + len(call.arguments.encode())
            if choice.audio is not None:
                total += len(choice.audio.data) + len(choice.audio.transcript.encode())
            if choice.blocks:
                total += sum(len(block.data) for block in choice.blocks if isinstance(block, ImageBlock))
        return total


class Chunk(msgspec.Struct, gc=False):
    """What one event of a stream adds to one choice. The order of chunks is the order of blocks: text after a tool
    call is a block of its own, and so is text in a chunk that says `opens_block`."""

    index: int
    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    audio: Audio | None = None
    logprobs: Logprobs | None = None
    finish_reason: str = ""  # one of FINISH_REASONS, "" while the choice goes on
    exposed: dict[str, bytes] | None = None  # at the end of the delta
    exposed_top: dict[str, bytes] | None = None  # at the end of the chunk object
    opens_block: bool = False  # what this chunk says (or signs, unread) begins a new block although its kind goes on
    signature: Signature | None = None  # of the reasoning so far: ends its block. Alone, of reasoning that is hidden
    citations: Sequence[Citation] = ()  # of the text block under way
    images: Sequence[ImageBlock] = ()
    stop_sequence: str = ""  # beside the finish reason of that name


def has_content(chunk: Chunk) -> bool:
    """Whether a caller would see something of the answer in it: the moment from which failover is over."""
    return bool(
        chunk.content
        or chunk.reasoning
        or chunk.finish_reason
        or chunk.tool_calls
        or chunk.refusal
        or chunk.audio is not None
        or chunk.signature is not None
        or chunk.images
        or chunk.citations
    )
