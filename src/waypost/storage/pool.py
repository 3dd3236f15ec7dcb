"""A few connections of one role, kept open and lent out one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from waypost.ledger.record import LedgerUnavailable
from waypost.storage.roles import Role

# The times are long enough for any statement of ours under load, and short enough that a stuck one does not stop its
# caller for good.
_SETTINGS = {
    "timezone": "UTC",
    "plan_cache_mode": "force_generic_plan",  # planning a batch costs as much as a third of running it
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
}
_CONNECT_S = 5
# A server that is frozen, or that a network has lost, sends neither an answer nor an error. More than a statement may
# take; reading all of the books may take longer.
ANSWER_S = 10.0
# An internal error is the server's state and not the statement's fault: such as 25006, read only after a failover.
_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)


class Pool:
    """Up to `size` connections to one database. For one event loop."""

    def __init__(self, conninfo: str, role: Role, *, size: int = 8, answer_s: float = ANSWER_S) -> None:
        self._conninfo = conninfo
        self._answer_s = answer_s
        self._role = role
        self._idle: list[AsyncConnection] = []  # the last one used is the first one lent
        self._places = asyncio.Semaphore(size)
        self._is_closed = False

    @asynccontextmanager
    async def connection(self, *, is_patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit, for `answer_s` or, to who is patient, for as long as it takes. Raises
        LedgerUnavailable when the server did not answer or gave up, without any text of its own; whatever was the
        statement's own fault comes through."""
        async with self._places:
            try:
                connection = await self._idle_one() or await connect(self._conninfo, self._role)
            except _UNREACHABLE:
                raise LedgerUnavailable from None
            limit = None if is_patient else asyncio.get_running_loop().call_later(self._answer_s, _hang_up, connection)
            try:
                yield connection
            except psycopg.InternalError:
                await connection.close()  # another one may lead to the server that writes now
                raise LedgerUnavailable from None
            except _UNREACHABLE:
                raise LedgerUnavailable from None
            finally:
                if limit is not None:
                    limit.cancel()
                await self._take_back(connection)

    @asynccontextmanager
    async def system(self, *, is_view: bool = False, is_patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees every organisation: for sweeps, snapshots and the operator's commands.

        As a view it changes nothing, and all its statements see the same moment."""
        async with self.connection(is_patient=is_patient) as connection, connection.transaction():
            if is_view:
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute("SET LOCAL waypost.scope = 'system'")
            yield connection

    @asynccontextmanager
    async def tenant(self, org_id: bytes) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one organisation."""
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SELECT set_config('waypost.org_id', %s, true)", (org_id.hex(),))
            yield connection

    async def close(self) -> None:
        """Close the idle connections; those lent out are closed when they come back."""
        self._is_closed = True
        await self._close_idle()

    async def _idle_one(self) -> AsyncConnection | None:
        """One that is still there. A server that restarted ended those from before without anybody reading of it: who
        met one first would be told that the database is away, however long it has been back."""
        while self._idle:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            await connection.close()
        return None

    async def _take_back(self, connection: AsyncConnection) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE and not self._is_closed:
            self._idle.append(connection)
            return
        # Cancelled in the middle, or the server is gone: and then the idle ones are gone too.
        was_lost = connection.broken
        await connection.close()
        if was_lost:
            await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()


def _has_news(connection: AsyncConnection) -> bool:
    """Whether the server sent something unasked: its end nearly always, and nothing that is worth keeping it for."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: AsyncConnection) -> None:
    """End the conversation from our side: who waits for an answer sees the connection closed. Cancelling the wait
    would first ask the server to cancel, and wait for that."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as same:
        same.shutdown(socket.SHUT_RDWR)


async def connect(conninfo: str, role: Role) -> AsyncConnection:
    """A connection that has taken the role and cannot wait for ever. Raises psycopg.OperationalError."""
    connection = await AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=_CONNECT_S)
    limit = asyncio.get_running_loop().call_later(_CONNECT_S, _hang_up, connection)
    try:
        settings = {"role": role.value, **_SETTINGS}
        calls = ", ".join("set_config(%s, %s, false)" for _ in settings)
        await connection.execute(f"SELECT {calls}", [part for setting in settings.items() for part in setting])
    except BaseException:
        await connection.close()
        raise
    finally:
        limit.cancel()
    return connection
