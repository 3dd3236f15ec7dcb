"""What happens to who waits for a database that does not answer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.storage.relay import Relay
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.pool import Pool
from waypost.storage.roles import Role


async def test_a_server_that_falls_silent_is_given_up(database: str) -> None:
    with tempfile.TemporaryDirectory(prefix="wp") as short:
        async with Relay(database, Path(short)).serving() as relay:
            pool = Pool(relay.conninfo, Role.APP, size=1, answer_s=0.05)
            async with pool.connection(is_patient=True) as connection:
                await connection.execute("SELECT 1")

            relay.withhold()
            with pytest.raises(LedgerUnavailable):
                async with pool.connection() as connection:
                    await connection.execute("SELECT 1")
            await relay.cut()
            async with pool.connection(is_patient=True) as connection:
                await connection.execute("SELECT 1")
            await pool.close()


async def test_who_is_patient_may_take_longer(database: str) -> None:
    pool = Pool(database, Role.APP, size=1, answer_s=0.01)
    async with pool.connection(is_patient=True) as connection:
        await connection.execute("SELECT pg_sleep(0.05)")
    with pytest.raises(LedgerUnavailable):
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(5)")
    await pool.close()


async def test_a_connection_that_the_server_ended_meanwhile_is_not_lent_out(database: str) -> None:
    pool = Pool(database, Role.APP, size=2)
    async with pool.connection() as one, pool.connection() as other:
        pids = [one.info.backend_pid, other.info.backend_pid]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as operator:
        await operator.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) AS pid", (pids,))

    async with pool.connection() as connection:
        await connection.execute("SELECT 1")

    await pool.close()
