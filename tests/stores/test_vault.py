"""What every vault promises: the vault process, a Valkey server, and the fake that other tests use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from tests.stores.vaults import MIB, fake_vault, socket_vault, valkey, valkey_vault
from waypost.stores.valkey_vault import _ENDS_PREFIX, ValkeyVault
from waypost.stores.vault import (
    VALUE_BYTES_MAX,
    ValueTooLarge,
    Vault,
    VaultFull,
    VaultUnavailable,
    VaultUnfit,
)

Opened = Callable[[], contextlib.AbstractAsyncContextManager[Vault]]
every_vault = pytest.mark.parametrize("opened", [fake_vault, socket_vault, valkey_vault], ids=lambda f: f.__name__)


@every_vault
async def test_what_is_put_is_got_as_often_as_one_likes_until_it_is_deleted(opened: Opened) -> None:
    async with opened() as vault:
        await vault.put("exec_1/input", b"a prompt", 60)
        assert [await vault.get("exec_1/input") for _ in range(3)] == [b"a prompt"] * 3
        await vault.delete("exec_1/input", "exec_2/input")
        assert await vault.get("exec_1/input") is None


@every_vault
async def test_a_later_value_takes_the_place_of_an_earlier_one(opened: Opened) -> None:
    async with opened() as vault:
        await vault.put("result", b"first", 60)
        await vault.put("result", b"", 60)
        assert await vault.get("result") == b""


@every_vault
async def test_sizes_up_to_the_largest_and_no_more(opened: Opened) -> None:
    async with opened() as vault:
        for size in (0, 1, 65_535, 65_536, MIB, VALUE_BYTES_MAX):
            value = bytes([size % 251]) * size
            await vault.put("value", value, 60)
            assert await vault.get("value") == value
        with pytest.raises(ValueTooLarge):
            await vault.put("value", bytes(VALUE_BYTES_MAX + 1), 60)


@every_vault
async def test_many_at_a_time_get_their_own(opened: Opened) -> None:
    async with opened() as vault:
        await asyncio.gather(*(vault.put(f"key-{n}", b"%d" % n * (n * 100), 60) for n in range(200)))
        found = await asyncio.gather(*(vault.get(f"key-{n}") for n in range(200)))
        assert found == [b"%d" % n * (n * 100) for n in range(200)]


@every_vault
async def test_keys_and_times_that_cannot_be_are_bugs(opened: Opened) -> None:
    async with opened() as vault:
        for key, ttl_s in (("", 1.0), ("k" * 256, 1.0), ("k", 0.0), ("k", -1.0)):
            with pytest.raises(ValueError, match="vault"):
                await vault.put(key, b"", ttl_s)


@pytest.mark.parametrize("opened", [socket_vault, valkey_vault], ids=lambda f: f.__name__)
async def test_what_is_over_is_gone(opened: Opened) -> None:
    async with opened() as vault:
        await vault.put("short", b"1", 0.05)
        await vault.put("long", b"2", 60)
        await asyncio.sleep(0.1)
        assert await vault.get("short") is None
        assert await vault.get("long") == b"2"


async def test_a_full_valkey_server_refuses() -> None:
    async with valkey({"save": "", "appendonly": "no", "maxmemory": "8mb"}) as url:
        vault = ValkeyVault(url)
        refused = 0
        for n in range(16):
            try:
                await vault.put(f"key-{n}", bytes(MIB), 60)
            except VaultFull:
                refused += 1
        assert 8 <= refused < 16
        await vault.close()


async def test_one_owner_has_a_share_of_a_valkey_server_and_what_ends_makes_room_in_it() -> None:
    one, other = b"1" * 16, b"2" * 16
    async with valkey({"save": "", "appendonly": "no", "maxmemory": "64mb"}) as url:
        vault, second = (ValkeyVault(url, share_percent=5) for _ in range(2))  # 3.2 MiB, as two processes see it
        await vault.put("a", bytes(MIB), 60, owner=one)
        await second.put("b", bytes(MIB), 60, owner=one)
        await vault.put("c", bytes(MIB), 60, owner=one)
        for mine in (vault, second):
            with pytest.raises(VaultFull):
                await mine.put("d", bytes(MIB), 60, owner=one)
        await vault.put("a", bytes(MIB), 60, owner=one)  # in its own place
        await vault.put("d", bytes(MIB), 60, owner=other)
        await vault.put("e", bytes(4 * MIB), 60)  # nobody's
        await second.delete("a", "e", "unknown")
        await vault.put("f", bytes(MIB), 60, owner=one)
        with pytest.raises(VaultFull):
            await vault.put("g", bytes(MIB), 60, owner=one)
        assert [len(await vault.get(key) or b"") for key in "abcfg"] == [0, MIB, MIB, MIB, 0]
        await vault.delete(*"bcf")
        await vault.put("h", bytes(3 * MIB), 0.05, owner=one)
        await asyncio.sleep(0.1)
        for number in range(20):  # the sum is that of what there is
            await vault.put("h", bytes(3 * MIB), 60, owner=one)
            if number % 2:
                await vault.delete("h")
        await vault.close()
        await second.close()


@pytest.mark.parametrize("is_server_full", [False, True])
async def test_many_payloads_that_are_over_make_room_for_a_large_one(is_server_full: bool) -> None:
    owner = b"1" * 16
    async with valkey() as url:
        vault = ValkeyVault(url, bytes_max=MIB)
        for batch in range(15):
            names = [f"key-{batch}-{n}" for n in range(100)]
            await asyncio.gather(*(vault.put(name, b"x" * 100, 2, owner=owner) for name in names))
        await asyncio.sleep(2.1)
        if is_server_full:
            await vault._redis.config_set("maxmemory", "1")
            with pytest.raises(VaultFull):
                await vault.put("large", bytes(MIB - 1024), 60, owner=owner)
            assert await vault._redis.zcard(_ENDS_PREFIX + owner) == 0, "taken off all the same"
            await vault._redis.config_set("maxmemory", "0")
        await vault.put("large", bytes(MIB - 1024), 60, owner=owner)
        with pytest.raises(VaultFull):
            await vault.put("one more", bytes(1024), 60, owner=owner)
        await vault.close()


async def test_a_full_valkey_server_refuses_an_owner_and_lets_what_is_there_be_deleted() -> None:
    async with valkey({"save": "", "appendonly": "no", "maxmemory": "8mb"}) as url:
        vault = ValkeyVault(url)
        kept = []
        for n in range(16):
            with contextlib.suppress(VaultFull):
                await vault.put(f"key-{n}", bytes(MIB), 60, owner=b"1" * 16)
                kept.append(f"key-{n}")
        assert 0 < len(kept) < 9
        await vault.delete(*kept)
        await vault.put("again", bytes(MIB), 60, owner=b"1" * 16)
        await vault.close()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"save": "60 1", "appendonly": "no"}, "save '60 1'"),
        ({"save": "", "appendonly": "yes"}, "appendonly yes"),
        ({"save": "", "appendonly": "no", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru"),
        ({"save": "", "appendonly": "no", "rename-command": "CONFIG nothing"}, "CONFIG GET"),
    ],
)
async def test_a_valkey_server_that_writes_or_loses_payloads_is_refused(settings: dict[str, str], word: str) -> None:
    async with valkey(settings) as url:
        vault = ValkeyVault(url)
        with pytest.raises(VaultUnfit, match=word):
            await vault.check()
        await vault.close()


async def test_a_valkey_server_in_memory_only_is_fit_and_one_that_is_gone_is_unavailable() -> None:
    async with valkey() as url:
        vault = ValkeyVault(url, answer_s=1.0)
        await vault.check()
    for asked in (vault.check(), vault.get("key"), vault.put("key", b"", 1), vault.delete("key")):
        with pytest.raises(VaultUnavailable):
            await asked
    await vault.close()
