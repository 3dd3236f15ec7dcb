"""The doctor's look at what runs: `up`, its gateways, and the embedded PostgreSQL before anybody starts it again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waypost.app.database import embedded_postgres
from waypost.app.finding import Finding, Verdict
from waypost.app.settings import Settings
from waypost.app.vault import VaultStatus, open_vault, status_socket, vault_socket
from waypost.storage.server_process import ProcessState
from waypost.stores.vault import VaultUnavailable, VaultUnfit
from waypost.supervisor.internal_http import get
from waypost.supervisor.up import running_pid

_ANSWER_S = 3.0
_DEGRADED = {
    # as /readyz says it → what that means
    "database": "the database does not answer it: requests go on from memory and leases; see `database` here",
    "journal": "its journal runs out of room: the disk is full, or the database books nothing; see `disk` here",
    "catalogue": "a newer catalogue cannot be read: the one before serves on; its log has a BugCaught line",
    "limits": "the Valkey server does not answer in time: each machine allows its part of each limit",
    "digests": "keys that are used are not moved to the newest pepper; its log has a BugCaught line",
    "peppers": "newer peppers cannot be read: `waypost pepper list` says why; those before them serve on",
    "keys": "newer keys cannot be read: those it knows serve on; its log has a BugCaught line",
}


class Readiness(msgspec.Struct, frozen=True):
    """What a gateway answers at /readyz of its internal socket."""

    degraded: list[str] = []


_VAULT_NEARLY_FULL = 0.9
_decode_vault = msgspec.json.Decoder(VaultStatus).decode
_decode = msgspec.json.Decoder(Readiness).decode


def processes(settings: Settings) -> Iterator[Finding]:
    """To be asked before the database is opened, which would start it."""
    pid = running_pid(settings.data_dir)
    if pid is None:
        yield Finding("up", Verdict.FINE, f"does not run on {settings.data_dir}")
        return
    yield Finding("up", Verdict.FINE, f"runs as process {pid}")
    if settings.database_url is None:
        yield from _postmaster(settings)
    yield asyncio.run(_vault(settings))
    sockets = sorted((settings.data_dir / "run").glob("gateway-*.sock"))
    yield from asyncio.run(_gateways(sockets))


def _postmaster(settings: Settings) -> Iterator[Finding]:
    found = embedded_postgres(settings).recorded
    if found is None:
        yield Finding("postgres", Verdict.DOUBTFUL, "is not running: `up` starts it again within a second or so")
        return
    pid, state = found
    if state is ProcessState.ZOMBIE:
        sentence = f"process {pid} has ended and nobody took note of it (a zombie): another one is started beside it"
        yield Finding("postgres", Verdict.DOUBTFUL, sentence)
    elif state is not ProcessState.POSTGRES:
        sentence = f"process {pid} was killed: `up` starts it again; {settings.data_dir / 'postgres/postgres.log'}"
        yield Finding("postgres", Verdict.DOUBTFUL, sentence)
    else:
        yield Finding("postgres", Verdict.FINE, f"runs as process {pid}")


async def _vault(settings: Settings) -> Finding:
    if settings.valkey_url is not None:
        return await _shared_vault(settings)
    try:
        _, body = await get(status_socket(vault_socket(settings)), "/readyz", timeout_s=_ANSWER_S)
        status = _decode_vault(body)
    except (OSError, msgspec.DecodeError):
        sentence = "does not answer: it was killed or it hangs; when it dies it is started again, without its payloads"
        return Finding("vault", Verdict.BAD, sentence)
    held, most = status.bytes // 2**20, status.bytes_max // 2**20
    sentence = f"{status.entries} payloads, {held} of {most} MiB, in memory only"
    if status.bytes > _VAULT_NEARLY_FULL * status.bytes_max:
        return Finding("vault", Verdict.DOUBTFUL, f"{sentence}: nearly full; raise server.vault_bytes")
    if not status.is_locked and _has_swap():
        hint = "this machine swaps and they could reach its disk; raise the limit on locked memory, or switch swap off"
        return Finding("vault", Verdict.DOUBTFUL, f"{sentence}, but {hint}")
    return Finding("vault", Verdict.FINE, sentence)


async def _shared_vault(settings: Settings) -> Finding:
    vault = open_vault(settings)
    try:
        await vault.check()
    except VaultUnfit as error:
        return Finding("vault", Verdict.BAD, str(error))
    except VaultUnavailable:
        return Finding("vault", Verdict.BAD, "the Valkey server does not answer: check server.valkey_url")
    finally:
        await vault.close()
    return Finding("vault", Verdict.FINE, "the Valkey server answers, and writes nothing to a disk")


def _has_swap() -> bool:
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1  # below its heading
    except OSError:  # another system than Linux
        return False


async def _gateways(sockets: list[Path]) -> list[Finding]:
    return [finding for each in sockets for finding in await _gateway(each)]


async def _gateway(socket: Path) -> list[Finding]:
    try:
        status, body = await get(socket, "/readyz", timeout_s=_ANSWER_S)
        readiness = _decode(body)
    except (OSError, msgspec.DecodeError):
        sentence = "does not answer: it was killed or it hangs; when it dies it is started again, and its log says why"
        return [Finding(socket.stem, Verdict.BAD, sentence)]
    if status != 200:
        return [Finding(socket.stem, Verdict.DOUBTFUL, "starts, or drains: it admits no requests")]
    if not readiness.degraded:
        return [Finding(socket.stem, Verdict.FINE, "admits requests")]
    return [Finding(socket.stem, Verdict.DOUBTFUL, _DEGRADED.get(what, what)) for what in readiness.degraded]
