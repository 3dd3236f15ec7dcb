"""The vault in its own process: bounds, wiping, restarts, bytes that are no frames, what the kernel does for us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # no stubs in this environment
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stores.vaults import MIB, served
from waypost.stores.payloads import OVERHEAD_BYTES, Payloads
from waypost.stores.socket_vault import SocketVault
from waypost.stores.vault import TTL_S_MAX, VaultFull, VaultUnavailable
from waypost.supervisor.internal_http import get, is_ready

CANARY = b"canary-in-the-vault-"


def held(payloads: Payloads, key: bytes, value: bytes, *, ttl_s: float, now_s: float = 0.0) -> bytearray:
    entry = payloads.reserve(key, len(value))
    entry.buffer[:] = value
    payloads.keep(entry, now_s=now_s, ttl_s=ttl_s)
    assert isinstance(entry.buffer, bytearray)
    return entry.buffer


def test_memory_is_wiped_and_counted_off_at_the_end_of_a_payload() -> None:
    payloads = Payloads(MIB)
    buffers = [
        held(payloads, b"deleted", CANARY, ttl_s=9),
        held(payloads, b"replaced", CANARY, ttl_s=9),
        held(payloads, b"expired", CANARY, ttl_s=1),
    ]
    payloads.forget(b"deleted")
    held(payloads, b"replaced", b"", ttl_s=9)
    assert payloads.expire(1.0) == 9.0
    assert buffers == [bytearray(len(CANARY))] * 3
    assert (len(payloads), payloads.expired) == (1, 1)
    payloads.forget_all()
    assert payloads.bytes == 0


def test_a_payload_that_is_being_sent_is_wiped_after_that() -> None:
    payloads = Payloads(MIB)
    buffer = held(payloads, b"key", CANARY, ttl_s=9)
    entry = payloads.find(b"key", 0.0)
    assert entry is not None
    payloads.forget(b"key")
    assert payloads.find(b"key", 0.0) is None
    assert buffer == CANARY
    payloads.end_reading(entry)
    assert buffer == bytes(len(CANARY))
    assert payloads.bytes == 0


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("put", "forget", "expire", "read")),
            st.integers(0, 5),
            st.integers(0, 900),
            st.floats(0, 9),
        )
    )
)
def test_bytes_are_those_of_the_entries_and_never_above_the_bound(steps: list[tuple[str, int, int, float]]) -> None:
    payloads, now_s = Payloads(4096), 0.0
    model: dict[bytes, tuple[int, float]] = {}
    for step, n, size, seconds in steps:
        key = b"%d" % n
        if step == "put":
            try:
                held(payloads, key, bytes(size), ttl_s=seconds, now_s=now_s)
                model[key] = size, now_s + seconds
            except VaultFull:
                assert payloads.bytes + size + len(key) + OVERHEAD_BYTES > 4096
        elif step == "forget":
            assert payloads.forget(key) == (model.pop(key, None) is not None)
        elif step == "expire":
            now_s += seconds
            payloads.expire(now_s)
            model = {key: each for key, each in model.items() if each[1] > now_s}
        else:
            entry = payloads.find(key, now_s)
            assert (entry is not None) == (key in model and model[key][1] > now_s)
            if entry is not None:
                payloads.end_reading(entry)
        assert payloads.bytes == sum(size + 1 + OVERHEAD_BYTES for size, _ in model.values()) <= 4096


def test_one_owner_has_a_share_and_what_ends_makes_room_in_it() -> None:
    payloads = Payloads(10 * (OVERHEAD_BYTES + 2), 3 * (OVERHEAD_BYTES + 2))

    def keep(key: bytes, owner: bytes) -> None:
        payloads.keep(payloads.reserve(key, 0, owner), now_s=0.0, ttl_s=1.0 if key == b"k0" else 9.0)

    for number in range(3):
        keep(b"k%d" % number, b"one")
    with pytest.raises(VaultFull):
        keep(b"k3", b"one")
    keep(b"o0", b"other")
    keep(b"n0", b"")
    payloads.expire(1.0)
    keep(b"k4", b"one")
    with pytest.raises(VaultFull):
        keep(b"k5", b"one")
    assert payloads.forget(b"k4")
    payloads.give_back(payloads.reserve(b"k5", 0, b"one"))
    keep(b"k5", b"one")
    for number in range(4):
        keep(b"n%d" % (number + 1), b"")
    assert payloads.refused == 2
    payloads.forget_all()
    assert payloads.bytes == 0
    keep(b"k6", b"one")


async def test_what_is_put_for_an_owner_counts_to_its_share_and_is_found_by_its_key() -> None:
    one, other = bytes(16), b"\0" * 15 + b"\1"
    async with served(4 * MIB, MIB) as (_, path):
        vault = SocketVault(path)
        await vault.put("a", b"a" * (MIB - 1024), 60, owner=one)
        with pytest.raises(VaultFull):
            await vault.put("b", b"b" * 1024, 60, owner=one)
        await vault.put("b", b"b" * (MIB - 1024), 60, owner=other)
        await vault.put("c", b"c" * MIB, 60)
        assert [(await vault.get(key) or b"")[:1] for key in "abc"] == [b"a", b"b", b"c"]
        await vault.delete("a")
        await vault.put("d", b"d" * 1024, 60, owner=one)
        await vault.close()


def test_marks_of_what_was_deleted_early_do_not_pile_up() -> None:
    payloads = Payloads(MIB)
    for n in range(20_000):
        held(payloads, b"%d" % n, b"", ttl_s=86_400)
        payloads.forget(b"%d" % n)
    assert len(payloads._by_expiry) < 2_000


async def test_without_room_a_value_is_refused_and_the_connection_goes_on() -> None:
    async with served(bytes_max=4 * MIB) as (server, path):
        vault = SocketVault(path)
        await vault.put("kept", bytes(3 * MIB), 60)
        for size in (2 * MIB, MIB):
            with pytest.raises(VaultFull):
                await vault.put("more", bytes(size), 60)
        assert server.payloads.refused == 2
        assert len(server.connections) == 1
        await vault.put("small", b"fits", 60)
        await vault.delete("kept")
        await vault.put("more", bytes(2 * MIB), 60)
        await vault.close()


async def test_a_value_that_stops_coming_gives_its_room_back() -> None:
    async with served() as (server, path):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"\x01\x00\x01\x00\x10\x00\x00\x00\x00\x10\x00kabc")
        await until(lambda: server.payloads.bytes > MIB)
        writer.close()
        await until(lambda: server.payloads.bytes == 0)


async def test_a_reader_who_does_not_read_gets_the_value_as_it_was() -> None:
    async with served() as (server, path):
        vault = SocketVault(path)
        value = os.urandom(8 * MIB)
        await vault.put("k", value, 60)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00k" * 2)
        await asyncio.sleep(0.1)
        await vault.delete("k")
        assert server.payloads.bytes > 0  # until it has been read
        assert await reader.readexactly(5 + len(value)) == b"\x01\x00\x80\x00\x00" + value
        assert await reader.readexactly(5) == b"\x02\x00\x00\x00\x00"
        await until(lambda: server.payloads.bytes == 0)
        writer.close()
        await vault.close()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(noise=st.binary(min_size=1, max_size=64))
def test_bytes_that_are_no_frames_harm_nobody(noise: bytes) -> None:
    async def run() -> None:
        async with served() as (server, path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(noise)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            vault = SocketVault(path)
            await vault.put("k", b"v", TTL_S_MAX * 2)
            assert await vault.get("k") == b"v"
            await vault.close()
            writer.close()
            await until(lambda: not server.connections)

    asyncio.run(run())


async def until(is_so: object, patience_s: float = 60.0) -> None:
    assert callable(is_so)
    async with asyncio.timeout(patience_s):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Process:
    """`waypost vault` on a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "run" / "vault.sock"
        self.status = directory / "run" / "vault-up.sock"
        self.child: asyncio.subprocess.Process

    async def start(self) -> None:
        self.child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "waypost", "vault", "--data-dir", str(self.directory)),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(20):
            while not await is_ready(self.status, "/readyz"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def end(self, how: signal.Signals) -> int:
        self.child.send_signal(how)
        return await self.child.wait()


@contextlib.asynccontextmanager
async def vault_process() -> AsyncIterator[Process]:
    with tempfile.TemporaryDirectory(prefix="wp") as directory:
        process = Process(Path(directory))
        await process.start()
        try:
            yield process
        finally:
            if process.child.returncode is None:
                await process.end(signal.SIGKILL)


async def test_a_restart_loses_payloads_and_nothing_else() -> None:
    async with vault_process() as process:
        vault = SocketVault(process.socket)
        await asyncio.gather(*(vault.put(f"k{n}", b"v", 60) for n in range(20)))
        await process.end(signal.SIGKILL)
        with pytest.raises(VaultUnavailable):
            await vault.get("k1")
        await process.start()
        assert await vault.get("k1") is None
        await vault.put("k1", b"again", 60)
        assert await vault.get("k1") == b"again"
        await vault.close()
        assert await process.end(signal.SIGTERM) == 0


async def test_a_vault_that_hangs_is_unavailable_in_bounded_time() -> None:
    async with vault_process() as process:
        vault = SocketVault(process.socket, answer_s=0.3)
        await vault.put("k", b"v", 60)
        process.child.send_signal(signal.SIGSTOP)
        with pytest.raises(VaultUnavailable):
            await vault.get("k")
        process.child.send_signal(signal.SIGCONT)
        assert await vault.get("k") == b"v"
        await vault.close()


async def test_its_sockets_are_its_owners_and_no_core_is_written() -> None:
    async with vault_process() as process:
        assert process.socket.stat().st_mode & 0o777 == 0o600
        assert process.status.stat().st_mode & 0o777 == 0o600
        assert psutil.Process(process.child.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)


async def test_memory_of_what_has_expired_goes_back_to_the_system() -> None:
    async with vault_process() as process:
        vault, memory = SocketVault(process.socket), psutil.Process(process.child.pid)
        before = memory.memory_info().rss
        values = [os.urandom(16 * MIB) for _ in range(4)]
        for n, value in enumerate(values):
            await vault.put(f"large-{n}", value, 5)  # the first outlasts the last, on a busy machine too
        assert memory.memory_info().rss > before + 60 * MIB
        await until(lambda: memory.memory_info().rss < before + 16 * MIB)
        status, page = await get(process.status, "/metrics", timeout_s=2)
        assert status == 200
        assert b"waypost_vault_expired_total 4.0" in page
        _, body = await get(process.status, "/readyz", timeout_s=2)
        assert json.loads(body)["bytes"] == 0
        await vault.close()
