"""A caller's Messages request on its way to a provider of the same format: as it came, field by field.

What changes: signatures that we sealed are opened, thinking that this kind did not sign is left out, a user's name
becomes a pseudonym, and what would change the price is not sent.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waypost.providers.anthropic_fields import signed_block
from waypost.providers.withheld import withhold
from waypost.wire.canonical import Signature
from waypost.wire.request import Around, ChatRequest

BUDGET_TOKENS_MIN = 1_024  # of thinking; Anthropic takes no smaller one
_WORDS = (b'thinking"', b'"citations"', b"\\u")  # without one of them no message needs a look

Fields = dict[str, msgspec.Raw]


class _Signed(msgspec.Struct, gc=False):
    type: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""


class _Citation(msgspec.Struct, gc=False):
    type: str = ""


class _Thinking(msgspec.Struct, gc=False):
    type: str = ""
    budget_tokens: int = 0


class _Metadata(msgspec.Struct, gc=False):
    user_id: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_signed = msgspec.json.Decoder(_Signed).decode
_decode_citation = msgspec.json.Decoder(_Citation).decode
_decode_thinking = msgspec.json.Decoder(_Thinking).decode
_decode_metadata = msgspec.json.Decoder(_Metadata | None).decode


def as_it_came(request: ChatRequest) -> Fields:
    fields = request.fields.copy()
    withhold(fields, request.around)
    if "metadata" in request.fields:
        metadata = metadata_for(_user_of(request.fields["metadata"]), request.around)
        if metadata is not None:
            fields["metadata"] = metadata
    messages = bytes(fields["messages"])
    if any(messages.find(word) >= 0 for word in _WORDS):
        reader = _Messages(request.around.open_sealed)
        fields["messages"] = msgspec.Raw(reader.rewritten(messages))
        if reader.has_orphaned_call:
            fields.pop("thinking", None)
    return fields


def metadata_for(user: str, around: Around) -> msgspec.Raw | None:
    """Who the request is for, as the provider may know: the same pseudonym for the same user of an organisation."""
    pseudonym = around.pseudonym(user) if user else ""
    return msgspec.Raw(_encode({"user_id": pseudonym})) if pseudonym else None


def fit_thinking(fields: Fields, max_tokens: int) -> None:
    """A budget of thinking must leave room for an answer; where it cannot, there is no thinking."""
    sent = fields.get("thinking")
    if sent is None:
        return
    try:
        thinking = _decode_thinking(sent)
    except msgspec.ValidationError:
        return
    if thinking.type != "enabled" or thinking.budget_tokens < max_tokens:
        return
    if max_tokens <= BUDGET_TOKENS_MIN:
        del fields["thinking"]
        return
    changed = _decode_fields(sent)
    changed["budget_tokens"] = msgspec.Raw(b"%d" % max(BUDGET_TOKENS_MIN, max_tokens // 2))
    fields["thinking"] = msgspec.Raw(_encode(changed))


def _user_of(metadata: msgspec.Raw) -> str:
    sent = _decode_metadata(metadata)
    return "" if sent is None else sent.user_id or ""


class _Messages:
    """The messages of one request, block by block."""

    def __init__(self, open_sealed: Callable[[str], Signature | None]) -> None:
        self._open_sealed = open_sealed
        self.has_orphaned_call = False  # the call under way lost the thinking that led to it

    def rewritten(self, messages: bytes) -> bytes:
        kept: list[msgspec.Raw | Fields] = []
        for sent in _decode_list(messages):
            message = _decode_fields(sent)
            content = message.get("content", msgspec.Raw(b"null"))
            if _decode_text(message["role"]) != "assistant" or not bytes(content).lstrip().startswith(b"["):
                kept.append(sent)
                continue
            try:
                blocks = self._blocks(content)
            except msgspec.ValidationError:
                kept.append(sent)  # no block of Anthropic's: its provider says so
                continue
            if blocks:  # a message of nothing but foreign thinking is none
                message["content"] = msgspec.Raw(_encode(blocks))
                kept.append(message)
        if not _has_results(_decode_list(messages)[-1]):
            self.has_orphaned_call = False
        return _encode(kept)

    def _blocks(self, content: msgspec.Raw) -> list[msgspec.Raw | dict[str, object] | Fields]:
        blocks: list[msgspec.Raw | dict[str, object] | Fields] = []
        is_foreign = has_own = False
        for sent in _decode_list(content):
            block = _decode_fields(sent)
            kind = _decode_text(block.get("type", msgspec.Raw(b'""')))
            if kind in ("thinking", "redacted_thinking"):
                signed = _decode_signed(sent)
                ours = signed_block(signed.thinking, self._open_sealed(signed.signature or signed.data))
                is_foreign = is_foreign or ours is None
                has_own = has_own or ours is not None
                if ours is not None:
                    blocks.append(ours)
            elif kind == "text" and "citations" in block:
                blocks.append(_with_citable(block))
            else:
                blocks.append(sent)
        self.has_orphaned_call = is_foreign and not has_own
        return blocks


def _with_citable(block: Fields) -> Fields:
    """Without citations of a search on the web: only who searched could check them."""
    raw = bytes(block["citations"])
    if not raw.startswith(b"["):
        return block
    kept = [each for each in _decode_list(raw) if _decode_citation(each).type != "web_search_result_location"]
    changed = {name: value for name, value in block.items() if name != "citations"}
    if kept:
        changed["citations"] = msgspec.Raw(_encode(kept))
    return changed


def _has_results(message: msgspec.Raw) -> bool:
    return bytes(message).find(b'"tool_result"') >= 0
