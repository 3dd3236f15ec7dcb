"""What providers that speak Anthropic's Messages send, as loosely as they do, and how each oddity is read.

Known from the wild: no breakdown of cache writes, usage that is whole at the start or at the end only, input as JSON
text, stop reasons of other vendors, blocks that begin with their text.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import ProviderError, error_of, failure_of
from waypost.providers.kind import ErrorRule, Failure, UpstreamError
from waypost.providers.openai_fields import UNREADABLE, is_broken
from waypost.wire.canonical import Signature, Usage

ABSENT = msgspec.Raw(b"")
ORIGIN = "anthropic"
"""Of signatures: whoever speaks for Anthropic reads what any other one signed."""

_SHOWN, _HIDDEN = "s|", "r|"  # what a signature's value is: of thinking, or the data of redacted thinking
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop": "stop",
    "max_tokens": "length",
    "length": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "tool_calls": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
}


class Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    citations: msgspec.Raw = ABSENT
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


MESSAGE_FIELDS = frozenset(
    (
        *("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage"),
        *("container", "diagnostics", "context_management"),
    )
)
_decode_counts = msgspec.json.Decoder(_Counts | None).decode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Counted:
    """The usage told so far. Counts are cumulative, so the highest one is the latest; a later event may leave some out
    or say 0 where it does not know."""

    __slots__ = ("_counts", "_is_unreadable", "_reasoning", "_write_1h", "_write_5m")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._write_5m = self._write_1h = self._reasoning = 0
        self._is_unreadable = False

    def add(self, sent: msgspec.Raw) -> None:
        if not len(sent):
            return
        try:
            told = _decode_counts(sent)
        except (ValueError, RecursionError):
            self._is_unreadable = True
            return
        if told is None:
            return
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            value = getattr(told, name)
            if value is not None:
                self._counts[name] = self._highest(self._counts.get(name, 0), value)
        if told.cache_creation is not None:
            self._write_5m = self._highest(self._write_5m, told.cache_creation.ephemeral_5m_input_tokens or 0)
            self._write_1h = self._highest(self._write_1h, told.cache_creation.ephemeral_1h_input_tokens or 0)
        if told.output_tokens_details is not None:
            self._reasoning = self._highest(self._reasoning, told.output_tokens_details.thinking_tokens or 0)

    @property
    def usage(self) -> Usage | None:
        """In disjoint classes; None when nothing was told."""
        if self._is_unreadable:
            return Usage(UNREADABLE)
        counts = self._counts
        if "input_tokens" not in counts and "output_tokens" not in counts:
            return None
        written = max(counts.get("cache_creation_input_tokens", 0), self._write_5m + self._write_1h)
        return Usage(
            counts.get("input_tokens", 0),
            counts.get("cache_read_input_tokens", 0),
            written - self._write_1h,  # what has no period is for five minutes, which is the default
            self._write_1h,
            counts.get("output_tokens", 0),
            self._reasoning,
        )

    def _highest(self, before: int, now: int) -> int:
        if now < 0:
            self._is_unreadable = True
        return max(before, now)


def usage_of(sent: msgspec.Raw) -> Usage | None:
    counted = Counted()
    counted.add(sent)
    return counted.usage


def shown_signature(signature: str) -> Signature:
    """What thinking was signed with."""
    return Signature(ORIGIN, _SHOWN + signature)


def hidden_signature(data: str) -> Signature:
    """Thinking that nobody but its provider can read."""
    return Signature(ORIGIN, _HIDDEN + data)


def signed_block(text: str, signature: Signature | None) -> dict[str, object] | None:
    """The block that a provider of this kind gets for earlier thinking: as it gave it. None for foreign thinking."""
    if signature is None or signature.origin != ORIGIN:
        return None
    if signature.value.startswith(_HIDDEN):
        return {"type": "redacted_thinking", "data": signature.value.removeprefix(_HIDDEN)}
    return {"type": "thinking", "thinking": text, "signature": signature.value.removeprefix(_SHOWN)}


def arguments_of(sent: msgspec.Raw) -> str:
    """A call's input as JSON text; "" for none."""
    raw = bytes(sent).strip()
    if raw.startswith(b'"'):
        text = _decode_any(raw)  # some send it as text
        return text if isinstance(text, str) else ""
    if raw in (b"", b"null", b"{}"):
        return ""
    _decode_object(raw)
    return msgspec.json.format(raw, indent=-1).decode()


def finish_reason_of(sent: str | None, *, has_calls: bool) -> str:
    """Ours for the provider's; "" while there is none. Raises UpstreamError where it says that it broke."""
    if not sent:
        return ""
    if is_broken(sent):
        raise UpstreamError(Failure(ErrorCode.GENERATION_FAILED))
    ours = _FINISH_REASONS.get(sent.lower(), "stop")
    return "tool_calls" if has_calls and ours == "stop" else ours


def failure_of_document(
    status: int, document: object, rules: Sequence[ErrorRule], retry_after_s: float | None = None
) -> Failure:
    """What an error means, whether it came as an answer or in a stream."""
    error = error_of(status, document)
    return failure_of(_told_apart(error, document), rules, retry_after_s)


def _told_apart(error: ProviderError, document: object) -> ProviderError:
    """Anthropic has one type for several things that differ for us: told apart by a code or by a sentence."""
    inner = document.get("error") if isinstance(document, dict) else None
    details = inner.get("details") if isinstance(inner, dict) else None
    code = details.get("error_code") if isinstance(details, dict) else None
    message = error.message.lower()
    if code == "enforced_spend_limit_reached":  # a 429 that no wait helps with
        return ProviderError(error.status, code, "billing_error", error.message)
    if "credit balance is too low" in message:
        return ProviderError(error.status, error.code, "billing_error", error.message)
    if "content filtering policy" in message:
        return ProviderError(error.status, error.code, "content_filter", error.message)
    if isinstance(code, str):
        return ProviderError(error.status, code, error.type, error.message)
    return error
