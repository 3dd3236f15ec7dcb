"""How a Valkey (or Redis) server is reached: bounded in connections and in time."""

from __future__ import annotations

import re

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect_valkey(url: str, *, answer_s: float, connections_max: int) -> Redis:
    """Connections are made when first needed. `answer_s` bounds each wait: for a place, to connect, for an answer. An
    ask is repeated once on a new connection: the server may have closed an idle one meanwhile."""
    pool = BlockingConnectionPool.from_url(
        re.sub(r"^valkey", "redis", url),
        max_connections=connections_max,
        timeout=answer_s,
        socket_timeout=answer_s,
        socket_connect_timeout=answer_s,
        retry=Retry(NoBackoff(), 1),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)
