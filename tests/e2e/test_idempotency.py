"""`Idempotency-Key`: a retry never spends twice, and is told what the first call came to."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.stack import Stack, ask, document, eventually
from tests.e2e.test_crash import read_whole
from waypost.ledger.record import Progress

KEY = {"idempotency-key": "order-66"}


async def test_a_key_spends_once_and_tells_what_it_came_to(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        body = ask("Hello\nsim: words=5")
        first = await stack.chat(body, headers=KEY)
        assert first.status == 200
        execution_id = first.headers["x-execution-id"]
        await stack.executions(1)

        again = await stack.chat(body, headers=KEY)
        assert (again.status, again.json["error"]["code"]) == (409, "CONFLICT")
        assert again.headers["x-execution-id"] == execution_id
        assert again.headers["x-should-retry"] == "false"
        said = again.json["error"]["message"]
        assert execution_id in said
        assert f"{first.json['usage']['completion_tokens']} output tokens" in said
        assert f"cost {first.json['usage']['cost']} USD" in said

        other = await stack.chat(ask("Something else"), headers=KEY)
        assert (other.status, other.json["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        assert (await stack.chat(ask("Something else"), headers={"idempotency-key": "order-67"})).status == 200
        refused = await stack.chat(body, headers={"idempotency-key": "k" * 256})
        assert (refused.status, refused.json["error"]["code"]) == (400, "INPUT_VALIDATION_ERROR")
        await stack.executions(2)
        assert len(stack.sim.requests) == 2


async def test_while_a_call_is_under_way_its_key_says_when_to_ask_again(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        body = ask("Slow\nsim: words=20 delay_ms=100")
        running = asyncio.ensure_future(stack.chat(body, headers=KEY))
        await eventually(lambda: _has_requests(stack, 1))
        again = await stack.chat(body, headers=KEY)
        assert (again.status, again.headers["retry-after"]) == (409, "1")
        assert "x-should-retry" not in again.headers
        assert (await running).status == 200


async def test_a_call_that_cost_nothing_gives_its_key_back(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack.sim, ("alpha",)))
        nothing = ask("Nothing\nsim: words=0")
        assert (await stack.chat(nothing, headers=KEY)).status == 200

        async def is_free() -> bool:
            return not await stack.rows("SELECT 1 FROM idempotency_key")

        await eventually(is_free)
        assert (await stack.chat(nothing, headers=KEY)).status == 200
        await stack.executions(2)


async def test_after_a_crash_a_key_is_free_unless_its_call_was_charged(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.adopt(document(stack.sim, ("alpha",)))
        silent = ask("Wait\nsim: words=3 first_ms=60000")
        spoken = ask("Talk\nsim: words=5000 delay_ms=20", stream=True)
        keys = {"silent": silent, "spoken": spoken}
        calls = [
            asyncio.ensure_future(stack.chat(body, headers={"idempotency-key": key})) for key, body in keys.items()
        ]
        await eventually(lambda: _has_requests(stack, 2))
        await eventually(lambda: _has_progress(stack))
        await stack.kill()
        await asyncio.gather(*calls, return_exceptions=True)
        await stack.start()
        rows = await stack.executions(2)
        charges = sorted(row["charge"] for row in rows)
        assert charges[0] == 0
        assert charges[1] > 0, "what was delivered of the stream"

        answer = await stack.chat(spoken, headers={"idempotency-key": "spoken"})
        assert (answer.status, answer.json["error"]["code"]) == (409, "CONFLICT")
        quick = asyncio.ensure_future(stack.chat(silent, headers={"idempotency-key": "silent"}))
        await eventually(lambda: _has_requests(stack, 3))
        quick.cancel()


async def _has_progress(stack: Stack) -> bool:
    """Whether the journal says that something of a stream was delivered, which it is told once a second."""
    records = read_whole(stack.data_dir / "journal" / "gateway-0")
    return any(isinstance(record, Progress) and record.charge_nanos for record in records)


async def _has_requests(stack: Stack, count: int) -> bool:
    return len(stack.sim.requests) >= count
