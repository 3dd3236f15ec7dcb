"""A revoked key on two gateway processes: both refuse it although no announcement arrives. With the database away the
keys that they know serve on."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

from tests.e2e.stack import KNOWN_WITHIN_S, Answer, Stack, ask, eventually
from tests.e2e.test_workers import Pair
from tests.storage.relay import Relay
from waypost.app.operator import Operator
from waypost.kit.clock import SystemClock
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

REFUSED = {401, 429}  # the latter to an address that goes on trying
_ENOUGH = 16  # new connections, which the kernel deals out: one of two gateways is left out once in 2**15


async def statuses(stack: Stack, key: str) -> set[int]:
    answers = [await stack.request("GET", "/v1/models", key=key) for _ in range(_ENOUGH)]
    return {answer.status for answer in answers}


async def say_something(stack: Stack) -> list[Answer]:
    """One after the other: at gateways that do not get the processor, callers at once would be too many."""
    return [await stack.chat(ask(max_tokens=16)) for _ in range(_ENOUGH)]


@pytest.mark.slow
async def test_both_gateways_refuse_it_with_announcements_cut_and_serve_on_with_the_database_cut(
    database: str, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="wp") as short:
        relay = Relay(database, Path(short), loses_announcements=True)
        async with relay.serving(), Pair(relay.conninfo, tmp_path) as stack, contextlib.AsyncExitStack() as opened:
            operator = Operator(stack.settings, database, SystemClock())  # past the relay
            opened.push_async_callback(operator.close)
            kept, gone = [
                await operator.create_key(stack.org_id, name=name, scope=Scope.FULL, limits=Limits())
                for name in ("kept", "gone")
            ]

            async def say(key: str, expected: set[int]) -> None:
                async def do_all() -> bool:
                    return await statuses(stack, key) <= expected

                await eventually(do_all, KNOWN_WITHIN_S)

            await say(gone.text, {200})
            await operator.revoke_key(gone.id)
            await say(gone.text, REFUSED)
            assert relay.lost > 0

            async def have_leases() -> bool:
                await say_something(stack)
                return await stack.rows("SELECT count(*) FROM lease WHERE state = 'ACTIVE'") == [(2,)]

            # A lease in each of them, then no answer from the database.
            await eventually(have_leases)
            relay.withhold()
            await operator.revoke_key(kept.id)
            answers = await say_something(stack)
            assert [answer.body for answer in answers if answer.status != 200] == []
            assert await statuses(stack, kept.text) == {200}  # nobody can know
            await relay.cut()
            await say(kept.text, REFUSED)
