"""How a Valkey (or Redis) server is reached: bounded in connections and in time."""

from __future__ import annotations

import re

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect_valkey(url: str, *, answer_s: float, connections_max: int, repeats: int = 1) -> Redis:
    """Connections are made when first needed. `answer_s` bounds each wait: for a place, to connect, for an answer.
    `repeats`: how often an ask is repeated on a new connection, because the server has closed an idle one meanwhile."""
    pool = BlockingConnectionPool.from_url(
        re.sub(r"^valkey", "redis", url),
        max_connections=connections_max,
        timeout=answer_s,
        socket_timeout=answer_s,
        socket_connect_timeout=answer_s,
        retry=Retry(NoBackoff(), repeats),
        health_check_interval=0,
    )
    return Redis.from_pool(pool)
