"""A pepper rotated, retired and brought back while two gateway processes and a control process serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.stack import KNOWN_WITHIN_S, eventually
from tests.e2e.test_workers import Pair
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

_ENOUGH = 16  # new connections, which the kernel deals out: one of two gateways is left out once in 2**15
_IDLE = 12


class RotatingPair(Pair):
    async def statuses(self, key: str) -> set[int]:
        """Of both gateways, and of control behind them."""
        found = [await self.request("GET", "/v1/models", key=key) for _ in range(_ENOUGH)]
        found.append(await self.request("GET", "/v1/balance", key=key))
        return {answer.status for answer in found}

    async def is_known(self, key: str) -> None:
        async def everywhere() -> bool:
            return await self.statuses(key) == {200}

        await eventually(everywhere, KNOWN_WITHIN_S)

    async def idle_keys(self) -> list[str]:
        """Which nobody has used."""
        create, limits = self.operator.create_key, Limits()
        made = [await create(self.org_id, name="idle", scope=Scope.FULL, limits=limits) for _ in range(_IDLE)]
        return [key.text for key in made]

    async def needed(self) -> dict[int, int]:
        """Keys that are known under one pepper alone."""
        return {each.version: each.only_here for each in await self.operator.list_peppers()}


@pytest.mark.slow
async def test_used_keys_move_at_every_process_and_others_go_and_come_with_their_pepper(
    database: str, tmp_path: Path
) -> None:
    async with RotatingPair(database, tmp_path) as stack:
        used, idle = stack.key.text, await stack.idle_keys()
        await stack.operator.rotate_pepper()

        async def has_moved() -> bool:
            assert (await stack.request("GET", "/v1/models", key=used)).status == 200
            return await stack.needed() == {2: 0, 1: _IDLE}

        await eventually(has_moved, KNOWN_WITHIN_S)
        made = await stack.request("POST", "/v1/api-keys", {"name": "made by control", "scope": "full"})
        assert made.status == 201
        assert await stack.needed() == {2: 1, 1: _IDLE}, "control makes keys under the newest"
        await stack.is_known(made.json["key"])

        await stack.operator.retire_pepper(1, is_sure=True)

        async def are_gone() -> bool:
            await asyncio.sleep(0.5)
            # Of a key each time that was not used: one that is, while a process has the old pepper still, moves.
            return await stack.statuses(idle.pop()) <= {401, 429}

        await eventually(are_gone, KNOWN_WITHIN_S)
        for key in (used, made.json["key"]):
            assert await stack.statuses(key) == {200}

        assert await stack.operator.restore_pepper(1) >= len(idle) > 0
        await stack.is_known(idle.pop())
        assert (await stack.request("GET", "/readyz")).json["degraded"] == []
