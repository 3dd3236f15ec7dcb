"""The vault of a cluster: a Valkey (or Redis) server that all nodes share, and that keeps nothing on a disk."""

from __future__ import annotations

from redis import exceptions
from redis.asyncio import Redis

from waypost.stores.valkey import connect_valkey
from waypost.stores.vault import (
    VaultFull,
    VaultUnavailable,
    VaultUnfit,
    check_value,
    encode_key,
)

ANSWER_S = 5.0  # for one ask: 32 MiB over a gigabit network take 0.3 s
CONNECTIONS_MAX = 16
_PREFIX = b"waypost:vault:"
_HOW = "Give Waypost a server of its own, started with --save '' --appendonly no, or leave server.valkey_url out."


class ValkeyVault:
    """A `Vault` on a Valkey server. `check` before the first use: a server that writes to a disk is refused."""

    def __init__(self, url: str, *, answer_s: float = ANSWER_S) -> None:
        self._redis: Redis = connect_valkey(url, answer_s=answer_s, connections_max=CONNECTIONS_MAX)

    async def put(self, key: str, value: bytes, ttl_s: float, *, owner: bytes = b"") -> None:  # noqa: ARG002
        # The server counts its memory and nobody's share of it.
        ttl_s = check_value(value, ttl_s)
        try:
            await self._redis.set(_PREFIX + encode_key(key), value, px=max(1, round(ttl_s * 1000)))
        except exceptions.OutOfMemoryError:
            raise VaultFull from None
        except (TimeoutError, exceptions.RedisError, OSError):
            raise VaultUnavailable from None

    async def get(self, key: str) -> bytes | None:
        try:
            found = await self._redis.get(_PREFIX + encode_key(key))
        except (TimeoutError, exceptions.RedisError, OSError):
            raise VaultUnavailable from None
        assert found is None or isinstance(found, bytes)
        return found

    async def delete(self, *keys: str) -> None:
        if not keys:
            return
        try:
            await self._redis.delete(*(_PREFIX + encode_key(key) for key in keys))
        except (TimeoutError, exceptions.RedisError, OSError):
            raise VaultUnavailable from None

    async def check(self) -> None:
        try:
            settings = {name: await self._setting(name) for name in ("save", "appendonly", "maxmemory-policy")}
        except exceptions.ResponseError:
            sentence = "The Valkey server does not tell whether it writes to a disk: let Waypost's user CONFIG GET."
            raise VaultUnfit(f"{sentence} {_HOW}") from None
        except (TimeoutError, exceptions.RedisError, OSError):
            raise VaultUnavailable from None
        save, appendonly, policy = settings.values()
        if save or appendonly != "no":
            what = f"save '{save}', appendonly {appendonly}"
            raise VaultUnfit(f"The Valkey server writes what it holds to a disk ({what}): payloads must not be. {_HOW}")
        if policy != "noeviction":
            sentence = f"The Valkey server throws away what it still needs when it is full (maxmemory-policy {policy}):"
            raise VaultUnfit(f"{sentence} set it to noeviction, so that what does not fit is refused instead.")

    async def close(self) -> None:
        await self._redis.aclose()

    async def _setting(self, name: str) -> str:
        """As the server has it; "unknown" when it does not know the name."""
        pairs = await self._redis.config_get(name)
        values = [value for found, value in pairs.items() if _text(found) == name]
        return _text(values[0]) if values else "unknown"


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
