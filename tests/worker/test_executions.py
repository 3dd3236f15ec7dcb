"""The work of executions: done once, whatever happens to who does it, and charged only when it is delivered."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from tests.storage.asynchronous import HOLD_NANOS
from tests.worker.execution_desk import CREDIT, PRICE, answered, cancel, full, open_desk, refused
from waypost.executions import retries
from waypost.executions.lifecycle import Mode, State
from waypost.executions.payload_keys import output_key
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.asynchronous_executions import Executions
from waypost.worker import executions as work_module
from waypost.worker.gateways import InferenceAnswer


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.01)
    monkeypatch.setattr(work_module, "_AGAIN_S", 0.01)


async def test_a_text_is_called_for_kept_in_the_vault_and_charged(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat"))
        made = await desk.created()
        done = await desk.run(made)

        assert (done.state, done.mode, done.attempt) == (State.SUCCEEDED, Mode.SYNC, 1)
        assert done.started_at is not None
        assert done.result_until is not None
        output = desk.output(done)
        assert output["text"] == "hello"
        assert output["choices"][0]["message"]["content"] == "hello"
        assert not desk.has_input(done)
        assert desk.vault.owners[output_key(done.id, done.attempt)] == done.org_id
        ((call, path, body),) = desk.gateway.calls
        assert (path, body["model"], body["messages"]) == (
            "/v1/chat/completions",
            "text-1",
            [{"role": "user", "content": "hi"}],
        )
        assert (call.execution_id, call.hold_nanos, call.attempts_before) == (made.id, HOLD_NANOS, 0)
        assert await desk.charged() == PRICE
        assert desk.ended.counts == {("text-1", "completed", ""): 1}


async def test_vectors_are_kept_and_images_become_files(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("embedding"))
        vectors = await desk.run(await desk.created("embedding"))
        assert desk.output(vectors) == {"data": [{"index": 0, "embedding": [0.5, 0.25]}]}

        desk.gateway.answers(answered("image"))
        painted = await desk.run(await desk.created("image"))
        assert painted.state is State.SUCCEEDED
        assert [desk.files.kept[painted.id, place] for place in (0, 1)] == [b"image0", b"image1"]
        assert [file.bytes for file in painted.output_files] == [6, 6]
        assert desk.output(painted) is None
        assert await desk.charged() == 2 * PRICE


async def test_files_reach_the_model_as_their_bytes(database: str) -> None:
    name = "file_0192f0c4-0000-7000-8000-000000000001"
    url = f"data:image/png;base64,{name[5:].replace('-', '')}"
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("image"))
        await desk.run(await desk.created("image", body_input={"prompt": "as this", "source_image": name}))
        desk.gateway.answers(answered("chat"))
        part = {"type": "image_url", "image_url": {"url": name}}
        seen = {"messages": [{"role": "user", "content": [part]}]}
        await desk.run(await desk.created("chat", body_input=seen))
        painted, read = (body for _, _, body in desk.gateway.calls)
        assert painted["contents"] == [{"role": "user", "parts": [{"text": "as this"}, {"image": url}]}]
        assert "source_image" not in painted
        assert read["messages"][0]["content"][0]["image_url"] == {"url": url}


async def test_files_inside_of_calls_are_bounded_in_all(database: str) -> None:
    name = "file_0192f0c4-0000-7000-8000-000000000001"
    async with open_desk(database, inlined_bytes_max=1) as desk:
        desk.gateway.hangs()
        first, second = [
            await desk.created("image", body_input={"prompt": "as this", "source_image": name}) for _ in range(2)
        ]
        working = asyncio.ensure_future(desk.work.start(first.id.hex()))
        await asyncio.wait_for(desk.gateway.is_called.wait(), 20)
        assert await desk.work.start(second.id.hex()) is not None
        assert len(desk.gateway.calls) == 1
        assert await cancel(desk, first)
        await asyncio.wait_for(working, 20)
        desk.gateway.answers(answered("image"))
        done = await desk.run(second)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
        assert (await desk.run(await desk.created("image"))).state is State.SUCCEEDED


@pytest.mark.parametrize("code", [ErrorCode.INPUT_VALIDATION_ERROR, ErrorCode.CONTENT_MODERATION_REJECTED])
async def test_a_refusal_of_the_request_ends_it_at_once_for_nothing(database: str, code: ErrorCode) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(refused(code))
        done = await desk.run(await desk.created())
        assert (done.state, done.error_code) == (State.FAILED, code.name)
        assert len(desk.gateway.calls) == 1
        assert not desk.has_input(done)
        assert await desk.charged() == 0


async def test_a_model_that_is_gone_meanwhile_is_told_as_unavailable(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(refused(ErrorCode.NOT_FOUND))
        done = await desk.run(await desk.created())
        assert (done.state, done.error_code) == (State.FAILED, "MODEL_UNAVAILABLE")


async def test_a_deployment_of_mode_stream_has_its_provider_stream(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat"))
        done = await desk.run(await desk.created(model="tale-1"))
        assert (done.state, done.mode) == (State.SUCCEEDED, Mode.STREAM)
        ((_, _, body),) = desk.gateway.calls
        assert body["stream"] is True
        assert await desk.charged() == PRICE


async def test_what_may_pass_is_tried_again_with_attempts_of_its_own(database: str) -> None:
    async with open_desk(database) as desk:
        overloaded = [refused(ErrorCode.MODEL_OVERLOADED, attempts) for attempts in (3, 6)]
        desk.gateway.answers(*overloaded, answered("chat"))
        done = await desk.run(await desk.created())
        assert done.state is State.SUCCEEDED
        assert [call.attempts_before for call, _, _ in desk.gateway.calls] == [0, 3, 6]
        assert await desk.charged() == PRICE


async def test_after_four_tries_it_has_failed(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(refused(ErrorCode.MODEL_OVERLOADED))
        done = await desk.run(await desk.created())
        assert (done.state, done.error_code) == (State.FAILED, "MODEL_OVERLOADED")
        assert len(desk.gateway.calls) == 4
        assert await desk.charged() == 0


async def test_where_no_provider_has_room_it_is_put_back_until_one_has(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(full())
        made = await desk.created()
        for _ in range(3 * retries.TRIES_MAX):
            again_s = await desk.work.start(made.id.hex())
            assert again_s is not None
            assert 0 < again_s <= retries.PUT_BACK_S_MAX
            waiting = await desk.now(made)
            assert (waiting.state, waiting.attempt) == (State.RUNNING, 0)
            assert desk.has_input(made)
        assert len(desk.gateway.calls) == 3 * retries.TRIES_MAX  # each run asks once and holds no place

        desk.gateway.answers(answered("chat"))
        done = await desk.run(made)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
        assert {call.attempts_before for call, _, _ in desk.gateway.calls} == {0}
        assert await desk.charged() == PRICE


async def test_put_back_it_comes_again_when_it_was_told_to_and_expires_like_any_other(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(full(asked_s=7))
        made = await desk.created()
        assert await desk.work.start(made.id.hex()) == 7
        with psycopg.connect(database) as raw:
            raw.execute("UPDATE asynchronous_execution SET expires_at = now() + interval '2 s'")
        again_s = await desk.work.start(made.id.hex())
        assert again_s is not None
        assert again_s <= 2
        with psycopg.connect(database) as raw:
            raw.execute("UPDATE asynchronous_execution SET expires_at = now()")
        assert await desk.work.start(made.id.hex()) is None
        assert (await desk.now(made)).state is State.EXPIRED
        assert await desk.charged() == 0


async def test_attempts_that_were_made_before_it_was_put_back_keep_their_numbers(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(refused(ErrorCode.MODEL_OVERLOADED, 3), full(3), answered("chat"))
        made = await desk.created()
        assert await desk.work.start(made.id.hex()) is not None
        done = await desk.run(made)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
        assert [call.attempts_before for call, _, _ in desk.gateway.calls] == [0, 3, retries.ATTEMPTS_OF_A_RUN]
        assert await desk.charged() == PRICE


async def test_a_cancelled_one_is_not_put_back(database: str) -> None:
    async with open_desk(database) as desk:
        made = await desk.created()

        async def answer(_: int) -> InferenceAnswer:
            assert await cancel(desk, made)
            return full()

        desk.gateway.answer = answer
        assert await desk.work.start(made.id.hex()) is None
        assert (await desk.now(made)).state is State.CANCELED
        assert await desk.charged() == 0


async def test_what_only_waits_to_be_tried_again_is_put_back_by_a_process_that_leaves(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 60.0)
    monkeypatch.setattr(work_module, "_AGAIN_S", 60.0)
    async with open_desk(database) as desk:
        desk.gateway.answers(refused(ErrorCode.MODEL_OVERLOADED), answered("chat"))
        made = await desk.created()
        called = asyncio.ensure_future(desk.work.start(made.id.hex()))
        await desk.gateway.is_called.wait()
        without_input = await desk.created()
        desk.vault.is_up = False
        looking = asyncio.ensure_future(desk.work.start(without_input.id.hex()))
        async with asyncio.timeout(20):
            while (await desk.now(without_input)).state is not State.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        desk.work.leave()

        assert None not in await asyncio.wait_for(asyncio.gather(called, looking), 20)
        desk.vault.is_up = True
        for each, runs in ((made, 2), (without_input, 1)):
            done = await desk.run(each)
            assert (done.state, done.attempt) == (State.SUCCEEDED, runs)
        assert len(desk.gateway.calls) == 3
        assert await desk.charged() == 2 * PRICE


async def test_one_organisations_slow_executions_leave_places_for_others(database: str) -> None:
    async with open_desk(database, places=4) as desk:
        desk.gateway.hangs()
        org_id = await desk.books.org(CREDIT)
        slow = [await desk.created(org_id=org_id) for _ in range(4)]
        working = [asyncio.ensure_future(desk.work.start(each.id.hex())) for each in slow]
        async with asyncio.timeout(20):
            while len(desk.gateway.calls) < 2 or sum(task.done() for task in working) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        done = [task.result() for task in working if task.done()]
        at_work = [task for task in working if not task.done()]
        assert all(again_s is not None and 0 < again_s < 1 for again_s in done)
        desk.gateway.answers(answered("embedding"))
        assert (await desk.run(await desk.created("embedding"))).state is State.SUCCEEDED
        for task in at_work:
            task.cancel()
        await asyncio.wait(at_work)
        desk.gateway.answers(answered("chat"))
        assert [(await desk.run(each)).state for each in slow] == [State.SUCCEEDED] * 4


async def test_an_input_that_was_lost_fails_it_and_frees_its_money(database: str) -> None:
    async with open_desk(database) as desk:
        made = await desk.created()
        desk.vault.values.clear()
        done = await desk.run(made)
        assert (done.state, done.error_code) == (State.FAILED, "SERVICE_UNAVAILABLE")
        assert desk.gateway.calls == []
        assert await desk.charged() == 0


async def test_a_result_that_nobody_can_keep_costs_nothing(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat"))
        made = await desk.created()
        desk.vault.is_full = True
        done = await desk.run(made)
        assert (done.state, done.error_code) == (State.FAILED, "SERVICE_UNAVAILABLE")
        assert await desk.charged() == 0


async def test_an_answer_without_anything_in_it_costs_nothing(database: str) -> None:
    async with open_desk(database) as desk:
        for body in (b'{"data":[]}', b'{"data":[{"b64_json":"?"}]}', b"[]", b'{"data":[{}]}'):
            desk.gateway.answers(InferenceAnswer(200, body, 1, True, charge_nanos=PRICE))
            done = await desk.run(await desk.created("image"))
            assert (done.state, done.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert await desk.charged() == 0


async def test_no_more_is_charged_than_was_held(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat", HOLD_NANOS + 1))
        await desk.run(await desk.created())
        assert await desk.charged() == HOLD_NANOS


async def test_a_job_that_runs_twice_works_once(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat"))
        made = await desk.created()
        await asyncio.gather(*(desk.work.start(made.id.hex()) for _ in range(5)))
        done = await desk.run(made)
        assert done.state is State.SUCCEEDED
        assert await desk.charged() == PRICE
        assert sum(desk.ended.counts.values()) == 1


async def test_work_whose_process_was_lost_is_done_again_as_the_next_attempt_and_charged_once(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.hangs()
        made = await desk.created()
        lost = asyncio.ensure_future(desk.work.start(made.id.hex()))
        await asyncio.wait_for(desk.gateway.is_called.wait(), 20)
        lost.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await lost
        assert (await desk.now(made)).state is State.RUNNING

        desk.gateway.answers(answered("chat"))
        done = await desk.run(made)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
        assert [call.attempts_before for call, _, _ in desk.gateway.calls] == [0, retries.ATTEMPTS_OF_A_RUN]
        assert await desk.charged() == PRICE


async def test_work_that_keeps_being_lost_is_given_up(database: str) -> None:
    async with open_desk(database) as desk:
        made = await desk.created()
        for attempt in range(retries.RUNS_MAX):
            before = await desk.now(made)
            claimed = replace(before, state=State.RUNNING, mode=Mode.SYNC, attempt=attempt + 1)
            assert await desk.executions.step(before, claimed) is not None
        done = await desk.run(made)
        assert (done.state, done.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert desk.gateway.calls == []
        assert await desk.charged() == 0


async def test_a_cancelled_one_drops_its_call_at_once_and_costs_nothing(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.hangs()
        made = await desk.created()
        working = asyncio.ensure_future(desk.work.start(made.id.hex()))
        await asyncio.wait_for(desk.gateway.is_called.wait(), 20)
        assert await cancel(desk, made)
        await asyncio.wait_for(working, 20)
        assert desk.gateway.dropped == 1
        assert (await desk.now(made)).state is State.CANCELED
        assert await desk.charged() == 0


async def test_an_answer_that_comes_after_the_cancellation_is_nobodys(database: str) -> None:
    async with open_desk(database) as desk:
        made = await desk.created()

        async def answer(_: int) -> InferenceAnswer:
            assert await cancel(desk, made)
            return answered("chat")

        desk.gateway.answer = answer
        done = await desk.run(made)
        assert done.state is State.CANCELED
        assert desk.output(made) is None
        assert await desk.charged() == 0


async def test_what_is_overdue_expires_and_its_call_is_dropped(database: str) -> None:
    async with open_desk(database) as desk:
        desk.gateway.hangs()
        now = datetime.now(UTC)
        waiting = await desk.created(expires_at=now - timedelta(seconds=1))
        running = await desk.created()
        working = asyncio.ensure_future(desk.work.start(running.id.hex()))
        await asyncio.wait_for(desk.gateway.is_called.wait(), 20)
        with psycopg.connect(database) as raw:
            raw.execute("UPDATE asynchronous_execution SET expires_at = now()")
        sweeping = asyncio.ensure_future(desk.work.sweep())
        await asyncio.wait_for(working, 20)
        async with asyncio.timeout(20):  # it is told of the end before the sweep has forgotten the input
            while desk.has_input(running):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sweeping.cancel()
        for execution in (waiting, running):
            done = await desk.now(execution)
            assert (done.state, done.error_code) == (State.EXPIRED, "GENERATION_TIMEOUT")
            assert not desk.has_input(done)
        assert desk.gateway.dropped == 1
        assert await desk.charged() == 0
        assert (await desk.run(waiting)).state is State.EXPIRED


async def test_one_that_cannot_end_keeps_none_after_it_from_ending(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs: list[BaseException] = []
    monkeypatch.setattr("waypost.worker.executions.report_bug", bugs.append)
    async with open_desk(database) as desk:
        now = datetime.now(UTC)
        broken = await desk.created(expires_at=now - timedelta(seconds=2))
        sound = await desk.created(expires_at=now - timedelta(seconds=1))
        with psycopg.connect(database) as raw:
            raw.execute("DELETE FROM long_hold WHERE id = %s", (UUID(bytes=broken.id),))
        sweeping = asyncio.ensure_future(desk.work.sweep())
        async with asyncio.timeout(20):
            while (await desk.now(sound)).state is not State.EXPIRED:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not sweeping.done()
        sweeping.cancel()
        assert bugs
        assert (await desk.now(broken)).state is State.RECEIVED


async def test_a_model_that_nobody_here_works_for_fails_at_once(database: str) -> None:
    async with open_desk(database) as desk:
        done = await desk.run(await desk.created("video"))
        assert (done.state, done.error_code) == (State.FAILED, "MODEL_UNAVAILABLE")
        assert await desk.charged() == 0


async def test_an_end_that_the_database_does_not_take_is_written_again_without_another_call(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails before it is written, and one of which nobody hears that it was."""
    async with open_desk(database) as desk:
        desk.gateway.answers(answered("chat"))
        step, fates = Executions.step, ["lost before", "lost after", "written"]

        async def unsure(self: Executions, before: object, after: object, **how: object) -> object:
            if how.get("ending") is None:
                return await step(self, before, after, **how)  # type: ignore[arg-type]
            fate = fates.pop(0)
            if fate == "lost before":
                raise LedgerUnavailable
            written = await step(self, before, after, **how)  # type: ignore[arg-type]
            if fate == "lost after":
                raise LedgerUnavailable
            return written

        monkeypatch.setattr(Executions, "step", unsure)
        done = await desk.run(await desk.created())
        assert done.state is State.SUCCEEDED
        assert fates == []
        assert len(desk.gateway.calls) == 1
        assert desk.output(done)["text"] == "hello"
        assert await desk.charged() == PRICE
        assert (await desk.books.totals()).available_nanos == CREDIT - PRICE
