"""The vault of a cluster: a Valkey (or Redis) server that all nodes share, and that keeps nothing on a disk."""

from __future__ import annotations

import time

from redis import exceptions
from redis.asyncio import Redis

from waypost.stores.payloads import OVERHEAD_BYTES
from waypost.stores.valkey import connect_valkey
from waypost.stores.vault import (
    TTL_S_MAX,
    VaultFull,
    VaultUnavailable,
    VaultUnfit,
    check_value,
    encode_key,
)

ANSWER_S = 5.0  # for one ask: 32 MiB over a gigabit network take 0.3 s
CONNECTIONS_MAX = 16
_PREFIX = b"waypost:vault:"
_OWNER_PREFIX = b"waypost:vault-owner:"  # whose a payload is, as long as it lives
# Of each owner: payloads by the moment at which they end, and the bytes of each; the sum stands under an empty name.
_ENDS_PREFIX, _BYTES_PREFIX = b"waypost:vault-ends:", b"waypost:vault-bytes:"
_ROOM_S = 60.0  # until the server is asked anew how much it may hold
_KEEP_MS = round(TTL_S_MAX * 1000) + 60_000
_OUT_OF_MEMORY = "OOM"  # in the text of a script's error
_OVER_MAX = 1000  # of what is over, in one script: the server does nothing else meanwhile, for some 3 ms
_ROUNDS_MAX = 1000  # of such scripts for one put; the next one goes on
_FULL, _KEPT, _FULL_OF_OVER = 0, 1, 2  # the last one: there may be more that is over
_FIND_OVER = f"""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', ends, '-inf', now_ms, 'LIMIT', 0, {_OVER_MAX})
"""
# What is over is counted off before the decision, and taken off after the value is set: a server that is full lets
# a script go on that has written, so the value has to be the first that it writes.
_PUT = f"""
local value, owner, ends, bytes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl_ms, cost, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
{_FIND_OVER}
local is_all = #over < {_OVER_MAX}
local replaced = true
for _, each in ipairs(over) do replaced = replaced and each ~= value end
if replaced then over[#over + 1] = value end
local total = tonumber(redis.call('HGET', bytes, '') or 0)
for _, each in ipairs(over) do total = total - tonumber(redis.call('HGET', bytes, each) or 0) end
if total + cost > most then return is_all and {_FULL} or {_FULL_OF_OVER} end
redis.call('SET', value, ARGV[1], 'PX', ttl_ms)
redis.call('SET', owner, ARGV[5], 'PX', ttl_ms)
for _, each in ipairs(over) do
    redis.call('HDEL', bytes, each)
    redis.call('ZREM', ends, each)
end
redis.call('HSET', bytes, value, cost, '', string.format('%.0f', total + cost))
redis.call('ZADD', ends, string.format('%.0f', now_ms + ttl_ms), value)
redis.call('PEXPIRE', bytes, {_KEEP_MS})
redis.call('PEXPIRE', ends, {_KEEP_MS})
return {_KEPT}
"""
# What a server that is full lets a script do comes first, as above.
_TAKE_OFF = f"""
local ends, bytes = KEYS[1], KEYS[2]
{_FIND_OVER}
local freed = 0
for _, each in ipairs(over) do
    freed = freed + tonumber(redis.call('HGET', bytes, each) or 0)
    redis.call('HDEL', bytes, each)
    redis.call('ZREM', ends, each)
end
if freed > 0 then
    redis.call('HSET', bytes, '', string.format('%.0f', tonumber(redis.call('HGET', bytes, '') or 0) - freed))
end
return #over
"""
_DELETE = """
for at = 1, #KEYS, 2 do
    local value, owner = KEYS[at], redis.call('GET', KEYS[at + 1])
    redis.call('DEL', value, KEYS[at + 1])
    local cost = owner and redis.call('HGET', ARGV[2] .. owner, value)
    if cost then
        redis.call('HINCRBY', ARGV[2] .. owner, '', '-' .. cost)
        redis.call('HDEL', ARGV[2] .. owner, value)
        redis.call('ZREM', ARGV[1] .. owner, value)
    end
end
return 0
"""
_HOW = "Give Waypost a server of its own, started with --save '' --appendonly no, or leave server.valkey_url out."


class ValkeyVault:
    """A `Vault` on a Valkey server. `check` before the first use: a server that writes to a disk is refused.

    An owner's payloads take at most `share_percent` of what the server may hold (`maxmemory`), or of `bytes_max` where
    it has no bound or does not tell; each counted as the vault process counts it."""

    def __init__(
        self, url: str, *, bytes_max: int = 1 << 62, share_percent: int = 100, answer_s: float = ANSWER_S
    ) -> None:
        self._redis: Redis = connect_valkey(url, answer_s=answer_s, connections_max=CONNECTIONS_MAX)
        self._bytes_max = bytes_max
        self._share_percent = share_percent
        self._room_bytes, self._room_until_s = bytes_max, 0.0
        self._put_owned = self._redis.register_script(_PUT)
        self._take_off = self._redis.register_script(_TAKE_OFF)
        self._delete = self._redis.register_script(_DELETE)

    async def put(self, key: str, value: bytes, ttl_s: float, *, owner: bytes = b"") -> None:
        ttl_ms = max(1, round(check_value(value, ttl_s) * 1000))
        raw = encode_key(key)
        try:
            if not owner:
                await self._redis.set(_PREFIX + raw, value, px=ttl_ms)
                return
            keys = [_PREFIX + raw, _OWNER_PREFIX + raw, _ENDS_PREFIX + owner, _BYTES_PREFIX + owner]
            cost, most = len(raw) + len(value) + OVERHEAD_BYTES, await self._share_bytes()
            arguments: list[bytes | int] = [value, ttl_ms, cost, most, owner]
            told = await self._put_owned(keys, arguments)
            if told == _FULL_OF_OVER:
                await self._take_off_over(keys[2:])
                told = await self._put_owned(keys, arguments)
        except exceptions.OutOfMemoryError:
            raise VaultFull from None
        except exceptions.ResponseError as refused:
            raise (VaultFull if _OUT_OF_MEMORY in str(refused) else VaultUnavailable) from None
        except (TimeoutError, exceptions.RedisError, OSError):
            raise VaultUnavailable from None
        if told != _KEPT:
            raise VaultFull

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
            pairs = [prefix + encode_key(key) for key in keys for prefix in (_PREFIX, _OWNER_PREFIX)]
            await self._delete(pairs, [_ENDS_PREFIX, _BYTES_PREFIX])
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

    async def _take_off_over(self, keys: list[bytes]) -> None:
        """All of an owner's that is over, without the value that is to come: it may be large."""
        for _ in range(_ROUNDS_MAX):
            if await self._take_off(keys) < _OVER_MAX:
                return

    async def _share_bytes(self) -> int:
        if time.monotonic() >= self._room_until_s:
            try:
                told = int(await self._setting("maxmemory"))
            except (exceptions.ResponseError, ValueError):  # it does not tell
                told = 0
            self._room_bytes = told or self._bytes_max
            self._room_until_s = time.monotonic() + _ROOM_S
        return self._room_bytes * self._share_percent // 100

    async def _setting(self, name: str) -> str:
        """As the server has it; "unknown" when it does not know the name."""
        pairs = await self._redis.config_get(name)
        values = [value for found, value in pairs.items() if _text(found) == name]
        return _text(values[0]) if values else "unknown"


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
