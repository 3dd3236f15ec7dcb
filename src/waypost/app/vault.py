"""`waypost vault`, put together from the settings, and the vault that the settings name for other processes.

It serves payloads at one Unix socket, and beside it, at another one, `/readyz` and `/metrics` for the supervisor. It
needs neither the database nor any secret, and outlives the processes that use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from waypost.app.settings import Settings
from waypost.kit.errors import ErrorCode
from waypost.stores.payloads import Payloads
from waypost.stores.socket_vault import SocketVault
from waypost.stores.vault import Vault, VaultUnavailable
from waypost.stores.vault_server import VaultServer
from waypost.supervisor.hardening import keep_memory_from_swap, keep_memory_private
from waypost.supervisor.inheritance import die_with_supervisor
from waypost.telemetry.events import ProcessStarted, emit, quieten_third_parties
from waypost.telemetry.metrics import Page
from waypost.transport.http1_server import Exchange, Http1Server

NAME = "vault"
_ROOM_BYTES = 1024 * 1024 * 1024  # of address space beside the payloads: the interpreter, and arenas of its threads
_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; version=0.0.4\r\n"


class VaultStatus(msgspec.Struct, frozen=True):
    """What the vault says at `/readyz` of its second socket."""

    entries: int
    bytes: int
    bytes_max: int
    is_locked: bool  # its memory never reaches a swap device


def vault_socket(settings: Settings) -> Path:
    """Where the vault of this data directory serves."""
    return settings.data_dir / "run" / "vault.sock"


def status_socket(socket: Path) -> Path:
    """Where a vault that serves at `socket` says how it is."""
    return socket.with_name(f"{socket.stem}-up.sock")


def open_vault(settings: Settings) -> Vault:
    """For a process that needs one: the cluster's, or that of this data directory. Close it at the end."""
    if settings.valkey_url is not None:
        from waypost.stores.valkey_vault import ValkeyVault  # noqa: PLC0415  a large import that few need

        return ValkeyVault(settings.valkey_url, bytes_max=settings.vault_bytes, share_percent=settings.vault_share)
    return SocketVault(vault_socket(settings))


def refuse_unfit(settings: Settings) -> None:
    """Raises VaultUnfit when the cluster's server would write payloads to a disk. One that does not answer may come
    later: it is looked at again by whoever uses it, and by the doctor."""
    if settings.valkey_url is None:
        return

    async def look() -> None:
        vault = open_vault(settings)
        try:
            with contextlib.suppress(VaultUnavailable):
                await vault.check()
        finally:
            await vault.close()

    asyncio.run(look())


def serve_vault(settings: Settings, socket: Path) -> int:
    """Serve on a Unix socket until told to stop; the exit code."""
    keep_memory_private()
    quieten_third_parties()
    die_with_supervisor(os.environ)
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.umask(0o177)  # whoever can connect reads every payload
    share_bytes_max = settings.vault_bytes * settings.vault_share // 100
    return uvloop.run(_serve(Payloads(settings.vault_bytes, share_bytes_max), socket))


async def _serve(payloads: Payloads, socket: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    is_locked = keep_memory_from_swap(payloads.bytes_max + _ROOM_BYTES)
    render_page = _page(payloads, is_locked=is_locked)

    def answer(exchange: Exchange) -> None:
        if exchange.path == "/readyz":
            status = VaultStatus(len(payloads), payloads.bytes, payloads.bytes_max, is_locked)
            exchange.respond(200, _JSON, msgspec.json.encode(status))
        elif exchange.path == "/metrics":
            exchange.respond(200, _TEXT, render_page())
        else:
            exchange.respond(404, _JSON, b"{}")

    server, status_server = VaultServer(payloads), Http1Server(answer, _refuse)
    for path in (socket, status_socket(socket)):
        path.unlink(missing_ok=True)  # of a process that was killed
    await server.listen(socket)
    await status_server.listen(unix_path=str(status_socket(socket)))
    emit(ProcessStarted(process=NAME, pid=os.getpid()))
    await stop.wait()
    await server.close()
    await status_server.drain(0.0)
    return 0


def _page(payloads: Payloads, *, is_locked: bool) -> Callable[[], bytes]:
    page = Page()
    page.gauge("waypost_vault_entries", "Payloads in the vault.", lambda: len(payloads))
    page.gauge("waypost_vault_bytes", "Memory that they take.", lambda: payloads.bytes)
    page.gauge("waypost_vault_bytes_max", "Memory that they may take.", lambda: payloads.bytes_max)
    page.gauge("waypost_vault_locked", "1 when its memory never reaches a swap device.", lambda: int(is_locked))
    refused = page.counter("waypost_vault_refused", "Payloads for which there was no room.")
    expired = page.counter("waypost_vault_expired", "Payloads whose time was over.")

    def render() -> bytes:
        refused.counts[()] = payloads.refused
        expired.counts[()] = payloads.expired
        return page.render()

    return render


def _refuse(_: ErrorCode) -> tuple[bytes, bytes]:
    return _JSON, b"{}"
