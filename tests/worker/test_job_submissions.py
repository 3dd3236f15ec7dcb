"""Submitting a job: at most once for each attempt, whatever becomes of the answer, the worker or the database."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.worker.job_stage import CREDIT, Stage, open_stage
from waypost.executions.lifecycle import Mode, State
from waypost.kit.ids import text
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.provider_callbacks import HEAR
from waypost.wire.errand import Errand, NotSent, Sent

TWO_IMAGES = 2 * 40_000_000 + 1_000_000
FOUR_SECONDS = 4 * 60_000_000 + 1_000_000


def is_submission(errand: Errand) -> bool:
    return errand.method == "POST" and not errand.url.endswith("/cancel")


async def money_is_right(stage: Stage, charge: int) -> None:
    totals = await stage.books.totals()
    assert (totals.available_nanos, totals.held_nanos) == (CREDIT - charge, 0)


async def test_files_reach_the_provider_as_its_deployment_wants_them(database: str) -> None:
    async with open_stage(database, "plain", input_delivery="base64") as stage:
        file_id = bytes(range(16))
        stage.files[file_id.hex()] = "picture"
        await stage.ended(await stage.execute(image=text("file", file_id), more=[{"at": text("file", file_id)}]))
        sent = msgspec.json.decode(stage.carrier.errands[0].body)["input"]
        assert sent == {"prompt": "hi", "image": "base64:picture", "more": [{"at": "base64:picture"}]}
        assert stage.needed_until_s >= stage.clock.unix_ns() // 1_000_000_000 + 3_500  # an hour is its time

        row = await stage.ended(await stage.execute(image=text("file", b"x" * 16)))
        assert (row.state, row.error_code) == (State.FAILED, "FILE_NOT_FOUND")
        assert len(stage.sim.jobs) == 1


async def test_a_file_may_be_uploaded_to_the_provider_itself(database: str) -> None:
    async with open_stage(database, "replicate", input_delivery="passthrough") as stage:
        file_id = bytes(range(16))
        stage.files[file_id.hex()] = "picture"
        refusals = iter([NotSent("dns")])
        stage.carrier.before = lambda errand: next(refusals, None) if errand.url.endswith("/files") else None
        row = await stage.ended(await stage.execute(image=text("file", file_id)))
        assert row.state is State.SUCCEEDED
        uploads = [each for each in stage.carrier.errands if each.url.endswith("/v1/files")]
        assert len(uploads) == 2
        assert b'name="content"' in uploads[1].body
        assert b"\r\n\r\npicture\r\n" in uploads[1].body
        submitted = next(each for each in stage.carrier.errands if each.url.endswith("/predictions"))
        address = msgspec.json.decode(submitted.body)["input"]["image"]
        assert address.startswith(f"{stage.sim.base_url('replicate')}/v1/files/")


async def test_an_input_that_was_lost_is_nobodys_fault_but_ours(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute()
        stage.vault.values.clear()
        row = await stage.ended(execution_id)
        assert (row.state, row.error_code) == (State.FAILED, "SERVICE_UNAVAILABLE")
        await money_is_right(stage, 0)


async def test_what_was_not_sent_goes_to_the_next_provider_as_the_same_attempt(database: str) -> None:
    async with open_stage(database, "fal", "plain") as stage:
        stage.carrier.before = lambda errand: NotSent("circuit_open", 5.0) if errand.provider == "fal" else None
        row = await stage.ended(await stage.execute())
        assert (row.state, row.provider, row.attempt) == (State.SUCCEEDED, "plain", 1)


async def test_what_nobody_received_is_sent_again_later_and_not_for_ever(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        refusals = iter([NotSent("connect_refused")] * 2)
        stage.carrier.before = lambda _: next(refusals, None)
        row = await stage.ended(await stage.execute())
        assert (row.state, row.attempt) == (State.SUCCEEDED, 1)

        stage.carrier.before = lambda _: NotSent("dns", 600.0)
        row = await stage.ended(await stage.execute())
        assert row.state is State.EXPIRED
        assert len(stage.sim.jobs) == 1


async def test_an_explicit_refusal_is_another_attempt_and_three_are_enough(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.sim.arm("status", status=429, retry_after="1")
        stage.sim.arm("status", status=503)
        row = await stage.ended(await stage.execute())
        assert (row.state, row.attempt) == (State.SUCCEEDED, 3)
        assert len(stage.sim.jobs) == 1

        stage.sim.arm("status", status=503, count=0)
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code, row.attempt) == (State.FAILED, "MODEL_OVERLOADED", 3)
        stage.sim.disarm()
        stage.sim.arm("status", status=422)
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code, row.attempt) == (State.FAILED, "INPUT_VALIDATION_ERROR", 1)


async def test_an_explicit_refusal_leads_to_another_provider_at_once(database: str) -> None:
    async with open_stage(database, "replicate", "plain") as stage:
        stage.sim.arm("status", status=503, count=0, style="replicate")
        begun_s = stage.clock.on_s
        execution_id = await stage.execute()
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        row = await stage.row(execution_id)
        assert (row.provider, row.attempt) == ("plain", 2)
        assert stage.clock.on_s - begun_s < 0.5
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED

        stage.sim.arm("status", status=503, count=0, style="plain")
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code, row.attempt) == (State.FAILED, "MODEL_OVERLOADED", 3)
        submissions = [each.provider for each in stage.carrier.errands if is_submission(each)]
        assert submissions[2:] == ["replicate", "plain", "replicate"]


async def test_what_no_gateway_carries_is_refused_and_what_is_late_is_not_sent(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.carrier.before = lambda _: NotSent("invalid")
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code) == (State.FAILED, "INPUT_VALIDATION_ERROR")

        execution_id = await stage.execute()
        stage.clock.on_s += 3_700
        row = await stage.ended(execution_id)
        assert (row.state, row.error_code) == (State.EXPIRED, "GENERATION_TIMEOUT")
        assert stage.sim.jobs == []


async def test_without_any_provider_of_jobs_it_fails(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute()
        stage.offer()
        row = await stage.ended(execution_id)
        assert (row.state, row.error_code) == (State.FAILED, "MODEL_UNAVAILABLE")


# Submissions whose answer was lost


@pytest.mark.parametrize("fault", ["reset", "unaccepted"])
async def test_where_the_provider_makes_one_job_of_it_it_is_sent_again(database: str, fault: str) -> None:
    async with open_stage(database, "plain") as stage:
        stage.sim.arm(fault, style="plain")
        row = await stage.ended(await stage.execute())
        assert (row.state, row.attempt) == (State.SUCCEEDED, 1)
        assert len(stage.sim.jobs) == 1


async def test_where_the_provider_lists_jobs_it_is_found_by_our_token(database: str) -> None:
    async with open_stage(database, "replicate", mode="callback", public_url="http://127.0.0.1:1") as stage:
        stage.sim.arm("reset", style="replicate")
        row = await stage.ended(await stage.execute(prompt="sim: callback=never"))
        assert (row.state, row.attempt, row.mode) == (State.SUCCEEDED, 1, Mode.CALLBACK)
        assert len(stage.sim.jobs) == 1


async def test_what_is_not_found_in_ten_minutes_is_given_up(database: str) -> None:
    async with open_stage(database, "replicate", mode="callback", public_url="http://127.0.0.1:1") as stage:
        stage.sim.arm("unaccepted", style="replicate")
        begun_s = stage.clock.on_s
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert 600 <= stage.clock.on_s - begun_s <= 700
        assert len([each for each in stage.carrier.errands if is_submission(each)]) == 1
        await money_is_right(stage, 0)


async def test_where_nothing_can_be_asked_it_is_never_sent_again(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.arm("reset", style="fal")
        row = await stage.ended(await stage.execute())
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert len(stage.sim.jobs) == 1
        await money_is_right(stage, 0)


async def test_a_callback_names_the_job_of_a_submission_whose_answer_was_lost(database: str) -> None:
    async with open_stage(database, "fal", mode="callback", public_url="http://127.0.0.1:1") as stage:
        stage.sim.arm("reset", style="fal")
        execution_id = await stage.execute()
        await stage.work(until=lambda row: row.state is State.SUBMIT_UNKNOWN)
        (job,) = stage.sim.jobs
        heard = {"execution": execution_id.hex(), "attempt": 1, "job": job.id}
        await stage.run(HEAR, heard | {"is_believed": 0})
        assert (await stage.row(execution_id)).state is State.SUBMIT_UNKNOWN
        await stage.run(HEAR, heard | {"is_believed": 1})
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED


async def dies_having_submitted(stage: Stage) -> dict[str, Any]:
    """A worker's end between a submission and its answer; the job that the queue had given to it."""
    task = await stage.next_job()
    assert task is not None

    def dies(_: Errand, sent: Sent) -> Sent:
        raise ConnectionError

    stage.carrier.after = dies
    with pytest.raises(ConnectionError):
        await stage.run(*task)
    stage.carrier.after = lambda _, sent: sent
    stage.jobs = stage.worker()
    return {"name": task[0], "arguments": task[1]}


async def test_a_callback_tells_of_the_job_while_its_submission_is_written_down(database: str) -> None:
    async with open_stage(database, "fal", mode="callback", public_url="http://127.0.0.1:1") as stage:
        execution_id = await stage.execute()
        task = await dies_having_submitted(stage)
        (job,) = stage.sim.jobs
        heard = {"execution": execution_id.hex(), "attempt": 1, "job": job.id}
        await stage.run(HEAR, heard | {"is_believed": 0})
        assert (await stage.row(execution_id)).state is State.SUBMITTING
        stage.carrier.before = lambda _: NotSent("resting", 5.0)
        await stage.run(HEAR, heard | {"is_believed": 1})
        stage.carrier.before = lambda _: None
        assert (await stage.row(execution_id)).state is State.SUBMITTED
        await stage.run(**task)
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert len(await stage.costs()) == len(stage.sim.jobs) == 1
        await money_is_right(stage, 41_000_000)


async def test_a_callback_after_the_end_leads_to_the_booking_of_its_job(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.set_prices({"acme/paint": {"image": "30000"}})
        execution_id = await stage.execute()
        task = await dies_having_submitted(stage)
        await stage.run(**task)
        assert (await stage.ended(execution_id)).state is State.FAILED
        assert await stage.costs() == []
        (job,) = stage.sim.jobs
        await stage._settled()
        heard = {"execution": execution_id.hex(), "attempt": 1, "job": job.id, "is_believed": 1}
        for _ in range(2):
            await stage.run(HEAR, heard)
            await stage.work()
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos == 30_000_000
        await money_is_right(stage, 0)


async def test_what_was_to_be_cancelled_and_is_lost_was_cancelled(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute()
        task = await dies_having_submitted(stage)
        row = await stage.row(execution_id)
        wished = replace(row, cancel_requested_at=row.accepted_at)
        assert await stage.executions.step(row, wished) is not None
        await stage.run(**task)
        row = await stage.ended(execution_id)
        assert (row.state, row.error_code) == (State.CANCELED, "")


async def test_a_worker_that_dies_while_it_submits_sends_nothing_twice(database: str) -> None:
    for style, state in (("plain", State.SUCCEEDED), ("fal", State.FAILED)):
        async with open_stage(database, style) as stage:
            execution_id = await stage.execute()
            task = await dies_having_submitted(stage)
            await stage.run(**task)  # the queue gives it to another one
            assert (await stage.ended(execution_id)).state is state
            assert len(stage.sim.jobs) == 1


async def is_believed_dead_while_it_submits(stage: Stage, execution_id: bytes) -> State:
    """Another worker takes a submission over while the one that sends it hears its answer; what it leaves behind."""
    task = await stage.next_job()
    assert task is not None
    left: list[State] = []
    original = stage.carrier.send

    async def send(errand: Errand) -> Sent:
        sent = await original(errand)
        if is_submission(errand) and not left:
            await stage.run(*task)
            left.append((await stage.row(execution_id)).state)
        return sent

    stage.carrier.send = send  # type: ignore[method-assign]
    stage.jobs = stage.worker()
    await stage.run(*task)
    return left[0]


async def test_an_answer_that_comes_after_its_worker_was_believed_dead_is_still_heard(database: str) -> None:
    async with open_stage(database, "replicate", mode="callback", public_url="http://127.0.0.1:1") as stage:
        execution_id = await stage.execute()
        assert await is_believed_dead_while_it_submits(stage, execution_id) is State.SUBMIT_UNKNOWN
        assert (await stage.row(execution_id)).state is State.SUBMITTED
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert len(stage.sim.jobs) == 1


async def test_an_answer_that_comes_after_the_end_is_an_orphan(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await is_believed_dead_while_it_submits(stage, execution_id)
        assert (await stage.ended(execution_id)).state is State.FAILED
        await stage.work()
        assert stage.sim.jobs[0].is_cancel_asked
        await money_is_right(stage, 0)


async def test_two_that_hear_of_a_job_at_once_leave_it_alone(database: str) -> None:
    async with open_stage(database, "replicate", mode="callback", public_url="http://127.0.0.1:1") as stage:
        stage.sim.arm("reset", style="replicate")
        execution_id = await stage.execute(prompt="sim: stuck=1 callback=never")
        await stage.work(until=lambda row: row.state is State.SUBMIT_UNKNOWN)
        heard = {"execution": execution_id.hex(), "attempt": 1, "job": stage.sim.jobs[0].id, "is_believed": 1}
        original = stage.carrier.send
        first: list[Errand] = []

        async def send(errand: Errand) -> Sent:
            sent = await original(errand)
            if not first:
                first.append(errand)
                await stage.run(HEAR, heard)  # while the look-up hears its answer
            return sent

        stage.carrier.send = send  # type: ignore[method-assign]
        stage.jobs = stage.worker()
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        for _ in range(6):
            task = await stage.next_job()
            assert task is not None
            await stage.run(*task)
        assert not stage.sim.jobs[0].is_cancel_asked
        assert (await stage.row(execution_id)).state is State.RUNNING


@pytest.mark.parametrize("is_committed", [False, True])
async def test_a_step_that_the_database_does_not_answer_is_taken_once(database: str, is_committed: bool) -> None:
    async with open_stage(database, "fal") as stage:
        made = []
        for lost in range(8):
            taken = 0
            original = stage.steps._step

            async def step(*arguments: Any, lost: int = lost, original: Any = original) -> Any:
                nonlocal taken
                taken += 1
                if taken - 1 == lost:
                    if is_committed:
                        await original(*arguments)
                    raise LedgerUnavailable
                return await original(*arguments)

            stage.steps._step = step  # type: ignore[method-assign, assignment]
            made.append(await stage.execute())
            await stage.work()
            stage.steps._step = original  # type: ignore[method-assign]
        rows = [await stage.row(each) for each in made]
        assert [row.state for row in rows] == [State.SUCCEEDED] * 8
        assert len(stage.sim.jobs) == 8
        assert not any(job.is_cancel_asked for job in stage.sim.jobs)
        await money_is_right(stage, 8 * 41_000_000)


@pytest.mark.parametrize("style", ["fal", "replicate", "plain"])
async def test_what_another_worker_has_written_down_is_not_taken_for_ones_own(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        execution_id = await stage.execute()
        task = await stage.next_job()
        assert task is not None
        step_on, send = stage.executions.step_on, stage.carrier.send
        others: list[asyncio.Future[None]] = []
        is_sent, may_answer = asyncio.Event(), asyncio.Event()

        async def slow(errand: Errand) -> Sent:
            sent = await send(errand)
            if is_submission(errand) and not is_sent.is_set():
                is_sent.set()
                await may_answer.wait()
            return sent

        async def lost(connection: Any, before: Any, after: Any, **more: Any) -> Any:
            if after.state is State.SUBMITTING and after.provider and not others:
                # This worker cannot reach the database; the queue gives its job to another one, who can.
                others.append(asyncio.ensure_future(stage.worker().start(await stage.row(execution_id))))
                await is_sent.wait()
                raise LedgerUnavailable
            return await step_on(connection, before, after, **more)

        stage.carrier.send = slow  # type: ignore[method-assign]
        stage.jobs = stage.worker()
        stage.executions.step_on = lost  # type: ignore[method-assign]
        await stage.run(*task)
        may_answer.set()
        await asyncio.gather(*others)
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert len([each for each in stage.carrier.errands if is_submission(each)]) == 1
        assert len(stage.sim.jobs) == 1


async def test_what_follows_a_step_is_queued_though_a_wish_to_cancel_came_in_its_place(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state is State.RUNNING)
        original = stage.steps._step
        lost: list[int] = []

        async def step(row: Any, after: Any, *more: Any) -> Any:
            if lost:
                return await original(row, after, *more)
            lost.append(1)
            wished = replace(row, cancel_requested_at=row.accepted_at)
            assert await stage.executions.step(row, wished) is not None
            raise LedgerUnavailable

        stage.steps._step = step  # type: ignore[method-assign, assignment]
        task = await stage.next_job()
        assert task is not None
        await stage.run(*task)
        row = await stage.row(execution_id)
        assert [arguments["version"] for _, arguments in await stage.queued()] == [row.version]
        assert row.cancel_requested_at is not None
