"""What no provider is given of a request, whichever kind it is and whosever format the request is in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.samples import AROUND, TARGET
from waypost.kit.values import replace
from waypost.providers import KINDS, MODALITIES
from waypost.providers.kind import ProviderKind
from waypost.wire.formats import FORMATS

PATH = replace(AROUND, path_model="m", pseudonym=lambda user: f"p-{len(user)}")
SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "openai_chat": {"model": "m", "messages": SAID},
    "openai_responses": {"model": "m", "input": "hi"},
    "anthropic_messages": {"model": "m", "max_tokens": 9, "messages": SAID},
    "gemini_generate": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "openai_images": {"model": "m", "prompt": "a cat"},
    "openai_embeddings": {"model": "m", "input": "a"},
}
PAIRS = [(sent, kind) for sent in list(BODIES)[:4] for kind in KINDS.values()]
PAIRS += [("openai_images", MODALITIES["image"]["openai"]), ("openai_embeddings", MODALITIES["embedding"]["openai"])]
UNSENT = {"service_tier": "priority", "metadata": {"user_id": "ada@example.org"}, "store": True}
WHO = dict.fromkeys(("user", "safety_identifier", "prompt_cache_key"), "ada@example.org")


def called(sent: str, kind: ProviderKind, **fields: Any) -> dict[str, Any]:
    request = FORMATS[sent].read(json.dumps(BODIES[sent] | fields).encode(), PATH)
    decoded = json.loads(kind.call(request, TARGET, output_tokens_max=None)[1])
    assert isinstance(decoded, dict)
    return decoded


@pytest.mark.parametrize(("sent", "kind"), PAIRS, ids=lambda each: getattr(each, "format", each))
def test_what_is_priced_stored_or_a_name_is_not_sent_on(sent: str, kind: ProviderKind) -> None:
    fields = UNSENT if sent == "anthropic_messages" else UNSENT | WHO
    body = called(sent, kind, **fields)

    assert "ada@example.org" not in json.dumps(body)
    assert "service_tier" not in body
    assert body.get("metadata") in (None, {"user_id": "p-15"})
    assert body.get("store", False) is False


def test_a_name_is_a_pseudonym_to_every_kind_like_openais() -> None:
    for sent, kind in (("openai_chat", KINDS["openai"]), ("openai_responses", KINDS["openai-responses"]), *PAIRS[-2:]):
        assert called(sent, kind, **WHO) == called(sent, kind) | dict.fromkeys(WHO, "p-15")
        assert called(sent, kind, user=None, prompt_cache_key=None) == called(sent, kind)


def test_storing_is_denied_where_it_was_asked_for() -> None:
    assert called("openai_chat", KINDS["openai"], store=True)["store"] is False
    assert "store" not in called("openai_chat", KINDS["openai"])
