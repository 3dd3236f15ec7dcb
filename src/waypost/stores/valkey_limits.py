"""Limits per minute counted for several machines on a Valkey server, as `policy.rate_limit.Window` counts for one
process: a hash for each window, of counts by bucket, taken and corrected by scripts that run as one.

Nothing waits for the server for longer than 20 ms. One that breaks, or is late three times in a row, is left alone, and
`LimitsUnavailable` is said at once, until the background has reached it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from waypost.policy.rate_limit import BUCKET_S, BUCKETS, Asked, Decision, LimitsUnavailable
from waypost.stores.valkey_connection import ValkeyConnection, ValkeyError, ValkeyGone, connect_pipelined

ANSWER_S = 0.02
LATE_MAX = 3  # in a row; a loop that was held up once makes one late
PROBE_S = 1.0  # between tries to reach one that is away
_PROBE_ANSWER_S = 1.0
_PREFIX = b"waypost:limit:"
_KEEP_S = 2 * BUCKETS * BUCKET_S  # of a window that nobody takes from: its counts are forgotten long before
_NOW = f"""
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local BUCKET_MS, BUCKETS, KEEP_MS = {BUCKET_S * 1000:.0f}, {BUCKETS}, {_KEEP_S * 1000:.0f}
local function read(key)
    local cells, counts, total = redis.call('HGETALL', key), {{}}, 0
    local bucket = math.floor(now_ms / BUCKET_MS)
    for i = 1, #cells, 2 do bucket = math.max(bucket, tonumber(cells[i])) end
    for i = 1, #cells, 2 do
        local each, count = tonumber(cells[i]), tonumber(cells[i + 1])
        if each > bucket - BUCKETS then
            counts[each], total = count, total + count
        else
            redis.call('HDEL', key, cells[i])
        end
    end
    return bucket, counts, total
end
local function add(key, bucket, amount)
    redis.call('HINCRBY', key, string.format('%.0f', bucket), string.format('%.0f', amount))
    redis.call('PEXPIRE', key, KEEP_MS)
end
"""
_TAKE = (
    _NOW
    + """
local answer, found, is_allowed = {}, {}, true
for i, key in ipairs(KEYS) do
    local bucket, counts, total = read(key)
    local limit, amount = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    found[i] = {bucket, amount, limit, total}
    local reset_ms, fits = (bucket + BUCKETS) * BUCKET_MS - now_ms, total + amount <= limit
    if not fits then
        is_allowed = false
        local excess = total + amount - limit
        for each = bucket - BUCKETS + 1, bucket do
            excess = excess - (counts[each] or 0)
            if excess <= 0 then
                reset_ms = (each + BUCKETS) * BUCKET_MS - now_ms
                break
            end
        end
    end
    answer[i] = {fits and 1 or 0, math.max(0, limit - total), reset_ms, bucket}
end
if is_allowed then
    for i, key in ipairs(KEYS) do
        local bucket, amount, limit, total = unpack(found[i])
        if amount > 0 then add(key, bucket, amount) end
        answer[i][2] = limit - total - amount
    end
end
return answer
"""
)
_CORRECT = (
    _NOW
    + """
local delta, taken_in = tonumber(ARGV[1]), tonumber(ARGV[2])
local bucket, counts, total = read(KEYS[1])
if delta >= 0 then
    add(KEYS[1], bucket, delta)
elseif counts[taken_in] then
    add(KEYS[1], taken_in, -math.min(-delta, counts[taken_in]))
end
return 0
"""
)
_SHA_OF_TAKE, _SHA_OF_CORRECT = (
    hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode() for script in (_TAKE, _CORRECT)
)
_FAILURES = (TimeoutError, OSError, ValkeyError, ValkeyGone)


class ValkeyLimits:
    """A `gateway.ports.LimitServer`. `run` it in the background; nothing is asked before it has heard of the server."""

    def __init__(self, url: str, *, on_changed: Callable[[bool], None], answer_s: float = ANSWER_S) -> None:
        """`on_changed` is told whether the server answers, whenever that changes, and at first."""
        self._url = url
        self._on_changed = on_changed
        self._answer_s = answer_s
        self._connection: ValkeyConnection | None = None
        self._late = 0
        self._told: bool | None = None

    @property
    def is_up(self) -> bool:
        """Whether it is asked."""
        return self._connection is not None and not self._connection.gone.done()

    async def take(self, asked: Sequence[Asked]) -> tuple[list[Decision], int]:
        keys = [_PREFIX + each.window for each in asked]
        numbers = [b"%d" % number for each in asked for number in (each.per_minute, each.amount)]
        connection = self._connection
        if connection is None:
            raise LimitsUnavailable
        try:
            async with asyncio.timeout(self._answer_s):
                answer = await connection.call(b"EVALSHA", _SHA_OF_TAKE, b"%d" % len(keys), *keys, *numbers)
        except TimeoutError:
            self._late += 1
            if self._late >= LATE_MAX:
                self._leave()
            raise LimitsUnavailable from None
        except (ValkeyError, ValkeyGone):
            self._leave()
            raise LimitsUnavailable from None
        self._late = 0
        decisions = [
            Decision(bool(fits), each.per_minute, remaining, reset_ms / 1000)
            for each, (fits, remaining, reset_ms, _) in zip(asked, answer, strict=True)
        ]
        return decisions, answer[0][3]

    def correct(self, window: bytes, delta: int, bucket: int) -> None:
        if self._connection is None or not delta:
            return
        with contextlib.suppress(ValkeyGone):
            numbers = (b"%d" % delta, b"%d" % bucket)
            done = self._connection.call(b"EVALSHA", _SHA_OF_CORRECT, b"1", _PREFIX + window, *numbers)
            done.add_done_callback(_forget)

    async def run(self) -> None:
        """Reach the server, and reach it again whenever it was lost; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_PROBE_ANSWER_S):
                    connection = await self._reach()
            except _FAILURES:
                self._tell(is_up=False)
            else:
                self._late = 0
                self._connection = connection
                self._tell(is_up=True)
                await asyncio.wait({connection.gone})
                self._leave()
                self._tell(is_up=False)
            await asyncio.sleep(PROBE_S)

    async def close(self) -> None:
        """What is being corrected may be lost."""
        self._leave()
        await asyncio.sleep(0)

    async def _reach(self) -> ValkeyConnection:
        connection = await connect_pipelined(self._url)
        try:
            for script in (_TAKE, _CORRECT):
                await connection.call(b"SCRIPT", b"LOAD", script.encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tell(self, *, is_up: bool) -> None:
        if self._told is not is_up:
            self._told = is_up
            self._on_changed(is_up)


def _forget(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
