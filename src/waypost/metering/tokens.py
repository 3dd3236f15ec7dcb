"""Counting tokens ourselves, where a provider counted nothing: offline, with OpenAI's newest vocabulary.

Other vendors' vocabularies differ by some per cent, so what is counted here is an estimate and is flagged as one.
Loading the vocabulary takes half a second and 70 MB, so that is done at the first use and in a thread; a count takes
some 25 µs per KB and holds the interpreter, so long texts are counted piece by piece in a thread too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import msgspec

from waypost.wire.canonical import Chunk, Completion

_VOCABULARY = "o200k_base"
_PIECE_CHARS = 8_192  # 0.2 ms at a time
_BYTES_PER_TOKEN_MOST = 8  # hardly any text has longer tokens on average
# Strings of a request that are no text of the prompt: names of kinds and roles, ids, addresses, inline media, seals.
_NO_TEXT = frozenset(
    (
        *("type", "role", "id", "tool_call_id", "tool_use_id", "call_id", "url", "data", "file_data", "file_id"),
        *("detail", "format", "media_type", "mimeType", "mime_type", "fileUri", "file_uri", "signature"),
        *("thoughtSignature", "encrypted_content", "model", "user", "service_tier", "tool_choice", "finish_reason"),
    )
)
_TEXT_BEGINS = b'[{"'
_decode = msgspec.json.Decoder().decode


class _Vocabulary(Protocol):
    def count(self, text: str) -> int: ...


class TokenCounter:
    """One per process. `load` before `count`; both may run in a thread."""

    def __init__(self) -> None:
        self._vocabulary: _Vocabulary | None = None

    @property
    def is_loaded(self) -> bool:
        return self._vocabulary is not None

    def load(self) -> None:
        if self._vocabulary is None:
            # The package's own wrapper builds tables of its own for every vocabulary; what counts is in here.
            bindings = import_module("bpe_openai._bindings")
            self._vocabulary = cast(_Vocabulary, bindings.tokenizer_for_encoding(_VOCABULARY))

    def count(self, texts: Iterable[str]) -> int:
        """Tokens of these texts, loading first where that is still to be done."""
        self.load()
        assert self._vocabulary is not None
        count = self._vocabulary.count
        return sum(count(piece) for text in texts for piece in _pieces(text))


def least_tokens(text_bytes: int, deltas: int = 0) -> int:
    """Fewer than a provider may count for that much text, told in so many pieces of at least one token each."""
    return max(deltas, text_bytes // _BYTES_PER_TOKEN_MOST)


def prompt_texts(fields: Mapping[str, msgspec.Raw]) -> list[str]:
    """The texts of a request in any chat format, of its top-level fields as they were received. A field that cannot be
    decoded (a number like 1e999 is enough) is one text as it stands: what a caller sends is never counted as nothing.
    """
    texts: list[str] = []
    for name, value in fields.items():
        if name not in _NO_TEXT and memoryview(value)[0] in _TEXT_BEGINS:
            try:
                _collect(_decode(value), texts)
            except (ValueError, RecursionError):
                texts.append(str(memoryview(value), "utf-8", "replace"))
    return texts


def chunk_text(chunk: Chunk) -> str:
    """What a piece of a stream says."""
    if chunk.content and not chunk.tool_calls:
        return chunk.content
    called = "".join(call.name + call.arguments for call in chunk.tool_calls)
    return chunk.content + chunk.reasoning + chunk.refusal + called


def chunk_bytes(chunk: Chunk) -> int:
    """How long that is, sounds and pictures included; no provider counts more tokens for it than that, but for one
    which it does not show."""
    spoken = "" if chunk.audio is None else chunk.audio.data + chunk.audio.transcript
    called = "".join([call.name + call.arguments for call in chunk.tool_calls])
    drawn = sum(len(image.data) for image in chunk.images)
    return len((chunk.content + chunk.reasoning + chunk.refusal + called + spoken).encode("utf-8", "replace")) + drawn


def completion_texts(completion: Completion) -> list[str]:
    """What a whole answer says."""
    texts = []
    for choice in completion.choices:
        texts += [choice.content, choice.reasoning, choice.refusal]
        texts += [call.name + call.arguments for call in choice.tool_calls]
    return texts


def text_bytes(texts: Iterable[str]) -> int:
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _collect(value: object, texts: list[str]) -> None:
    if isinstance(value, str):
        if value and not value.startswith("data:"):
            texts.append(value)
    elif isinstance(value, Sequence):
        for each in value:
            _collect(each, texts)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                _collect(each, texts)


def _pieces(text: str) -> Iterator[str]:
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    if len(text) <= _PIECE_CHARS:
        yield text
        return
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]
