"""`GET /v1/models` and `/v1/models/{slug}` for callers who say `anthropic-version`, and `/v1/messages/count_tokens`."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec

from waypost.gateway.admission import permitted
from waypost.gateway.likely_input import likely_input_tokens
from waypost.gateway.models import may_call, unknown_model
from waypost.kit.errors import invalid
from waypost.policy.catalogue import Model
from waypost.policy.snapshot import View
from waypost.tenancy.api_key import ApiKey
from waypost.wire.anthropic_messages import read_counted
from waypost.wire.formats import conversation_of
from waypost.wire.request import Around

LIMIT_DEFAULT = 20
LIMIT_MAX = 1_000
IMAGE_TOKENS = 1_600  # what Anthropic counts for an image of the usual size


class AnthropicModel(msgspec.Struct, frozen=True):
    type: str
    id: str
    display_name: str
    created_at: str  # RFC 3339
    lifecycle: str
    max_input_tokens: int
    max_tokens: int


class _Page(msgspec.Struct, frozen=True):
    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


_encode = msgspec.json.Encoder().encode


def list_anthropic_models(view: View, api_key: ApiKey, query: str) -> bytes:
    """A page of the models that this key may call: `limit`, `after_id`, `before_id` as query. Raises Refusal 400."""
    given = parse_qs(query)
    limit = _limit(given.get("limit", [""])[0])
    entries = [_entry(each.model) for each in view.models if may_call(api_key, each.model)]
    slugs = [entry.id for entry in entries]
    after, before = given.get("after_id", [""])[0], given.get("before_id", [""])[0]
    if before:
        left = entries[: _place(slugs, before, "before_id")]
        page, has_more = left[-limit:], len(left) > limit
    else:
        left = entries[_place(slugs, after, "after_id") + 1 :] if after else entries
        page, has_more = left[:limit], len(left) > limit
    return _encode(_Page(page, has_more, page[0].id if page else None, page[-1].id if page else None))


def show_anthropic_model(view: View, api_key: ApiKey, name: str) -> bytes:
    """One model by slug or alias. Raises Refusal NOT_FOUND."""
    found = view.find(name)
    if found is None or not may_call(api_key, found.model):
        raise unknown_model()
    return _encode(_entry(found.model))


def count_message_tokens(body: bytes, around: Around, view: View, api_key: ApiKey) -> bytes:
    """An estimate of the input's tokens, made here: no provider is asked, nothing is charged. Raises Refusal."""
    request = read_counted(body, around)
    permitted(view.find(request.model), "chat", api_key)
    tokens = likely_input_tokens(conversation_of(request), medium_tokens=IMAGE_TOKENS)
    return _encode({"input_tokens": tokens})


def _limit(sent: str) -> int:
    if not sent:
        return LIMIT_DEFAULT
    if not (sent.isascii() and sent.isdigit()) or len(sent) > 4 or not 1 <= int(sent) <= LIMIT_MAX:
        raise invalid("limit", f"'limit' is not a whole number from 1 to {LIMIT_MAX}.")
    return int(sent)


def _place(slugs: list[str], slug: str, param: str) -> int:
    if slug not in slugs:
        raise invalid(param, f"'{param}' is not the id of a model of this list.")
    return slugs.index(slug)


def _entry(model: Model) -> AnthropicModel:
    return AnthropicModel(
        type="model",
        id=model.slug,
        display_name=model.slug,
        created_at=datetime.fromtimestamp(model.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        lifecycle="active",
        max_input_tokens=model.context_window,
        max_tokens=model.max_output,
    )
