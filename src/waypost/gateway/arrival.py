"""A request that the gateway has begun to see to."""

from __future__ import annotations

import msgspec

from waypost.tenancy.api_key import ApiKey
from waypost.transport.exchange import Exchange
from waypost.wire.formats import ChatFormat


class Arrival(msgspec.Struct, gc=False):
    """An authenticated request on its way; its id becomes the execution's. `limit_headers` tell of the key's limits."""

    exchange: Exchange
    format: ChatFormat
    id: bytes
    at_ms: int
    api_key: ApiKey
    limit_headers: bytes = b""
