"""What of ours stands between an organisation and whoever answers it: sealed envelopes, pseudonyms, and the identity of
answers. All of it hangs on one secret of the deployment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from waypost.dispatch.ports import Admission
from waypost.gateway.endpoints import ChatEndpoint
from waypost.kit.crypto import hmac_sha256
from waypost.transport.exchange import Exchange
from waypost.wire.canonical import Signature
from waypost.wire.envelope import Envelope
from waypost.wire.formats import ChatFormat
from waypost.wire.identity import AnswerIdentity
from waypost.wire.request import Around

_KEPT_MAX = 4_096  # organisations at hand; one takes half a kilobyte


class Edge:
    """Of all organisations."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._envelope = Envelope(secret)
        self._of = lru_cache(maxsize=_KEPT_MAX)(self._make)

    def around(self, exchange: Exchange, endpoint: ChatEndpoint, org_id: bytes) -> Around:
        """What stands around the body of a request of that organisation."""
        open_sealed, pseudonym = self._of(org_id)
        return Around(open_sealed, endpoint.path_model, endpoint.is_stream, exchange.headers, exchange.query, pseudonym)

    def identity(
        self, admission: Admission, chat_format: ChatFormat, *, execution_id: bytes, org_id: bytes, at_ms: int
    ) -> AnswerIdentity:
        """Of the answer to a request accepted at that moment."""
        request = admission.request
        return AnswerIdentity(
            chat_format.answer_prefix + execution_id.hex(),
            at_ms // 1000,
            admission.first.offer.model.slug,
            org_id,
            self._secret,
            self._envelope,
            request.wants_logprobs,
            request.uses_functions,
        )

    def _make(self, org_id: bytes) -> tuple[Callable[[str], Signature | None], Callable[[str], str]]:
        """What opens the envelopes that an organisation was given, and what names its users to providers."""

        def open_sealed(sealed: str) -> Signature | None:
            return self._envelope.open(sealed, org_id)

        def pseudonym(user: str) -> str:
            return hmac_sha256(self._secret, org_id + b"|user|" + user.encode()).hex()[:32]

        return open_sealed, pseudonym
