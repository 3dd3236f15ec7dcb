"""Executions at providers of jobs: submitted at most once, asked about, fetched, paid once; whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.worker.job_stage import CREDIT, KINDS, Stage, catalogue, open_stage
from waypost.executions.lifecycle import Mode, State
from waypost.kit.values import replace
from waypost.policy.snapshot import build_view
from waypost.storage.asynchronous_executions import CANCEL_AT_PROVIDER, START, Job
from waypost.storage.provider_callbacks import HEAR
from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent, Sent
from waypost.worker.job_steps import LOOK_UP, ORPHAN, POLL

STYLES = pytest.mark.parametrize("style", KINDS)
TWO_IMAGES = 2 * 40_000_000 + 1_000_000
FOUR_SECONDS = 4 * 60_000_000 + 1_000_000


def is_submission(errand: Errand) -> bool:
    return errand.method == "POST" and not errand.url.endswith("/cancel")


async def money_is_right(stage: Stage, charge: int) -> None:
    totals = await stage.books.totals()
    assert (totals.available_nanos, totals.held_nanos) == (CREDIT - charge, 0)


@STYLES
async def test_pictures_are_submitted_polled_fetched_and_paid(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        execution_id = await stage.execute(n=2)
        row = await stage.ended(execution_id)

        assert (row.state, row.mode, row.attempt, row.provider) == (State.SUCCEEDED, Mode.POLL, 1, style)
        assert [file.content_type for file in row.output_files] == ["image/png"] * 2
        assert len(stage.sim.jobs) == 1
        assert await stage.charge(execution_id) == TWO_IMAGES
        await money_is_right(stage, TWO_IMAGES)
        assert stage.announced == ["execution.started", "execution.completed"]
        assert stage.vault.values == {}


@STYLES
async def test_a_film_is_paid_by_its_seconds(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        stage.sim.set_prices({"acme/clip": {"second": "2000"}})
        execution_id = await stage.execute("clip", "sim: run_ms=40", duration=4)
        row = await stage.ended(execution_id)
        assert row.state is State.SUCCEEDED
        assert await stage.charge(execution_id) == FOUR_SECONDS
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos == (80_000 if style == "replicate" else 8_000_000)


@STYLES
async def test_a_job_that_fails_costs_its_caller_nothing(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        stage.sim.set_prices({"acme/paint": {"second": "2000"}})
        execution_id = await stage.execute(prompt="sim: fail=1 run_ms=30")
        row = await stage.ended(execution_id)
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        await money_is_right(stage, 0)
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos == (60_000 if style == "replicate" else 0)


async def test_a_job_whose_provider_says_that_its_input_is_not_allowed(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        row = await stage.ended(await stage.execute(prompt="sim: fail=moderation"))
        assert (row.state, row.error_code) == (State.FAILED, "CONTENT_MODERATION_REJECTED")


# While it runs


async def test_a_callback_ends_the_wait_and_its_polls(database: str) -> None:
    async with open_stage(database, "replicate", mode="callback", public_url="http://127.0.0.1:1") as stage:
        execution_id = await stage.execute()
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        await stage._settled()
        hint = {"execution": execution_id.hex(), "attempt": 1, "job": "", "is_believed": 0}
        await stage.run(HEAR, hint | {"attempt": 2})  # of another submission
        assert (await stage.row(execution_id)).state is State.SUBMITTED
        await stage.run(HEAR, hint)
        assert (await stage.row(execution_id)).state is State.REHOSTING
        await stage.run(HEAR, hint)
        row = await stage.ended(execution_id)
        assert row.state is State.SUCCEEDED
        await stage.run(HEAR, hint)
        assert await stage.row(execution_id) == row


async def test_two_that_ask_at_once_leave_one_chain_of_questions(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state is State.RUNNING)
        hint = {"execution": execution_id.hex(), "attempt": 1, "job": "", "is_believed": 0}
        for _ in range(3):
            await stage.run(HEAR, hint)
        version = (await stage.row(execution_id)).version
        polls = [arguments["version"] for name, arguments in await stage.queued() if name == POLL]
        assert polls.count(version) == 1
        before = len(stage.carrier.errands)
        for _ in range(len(polls)):
            task = await stage.next_job()
            assert task is not None
            await stage.run(*task)
        assert len(stage.carrier.errands) == before + 1


async def test_a_provider_that_cannot_be_asked_is_asked_again(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.arm("status", style="fal-status", status=503, count=2)
        stage.sim.arm("status", style="fal-result", status=502)
        assert (await stage.ended(await stage.execute())).state is State.SUCCEEDED


async def test_questions_become_rarer_and_time_ends_them(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state.has_ended, jobs_max=90)
        row = await stage.row(execution_id)
        assert (row.state, row.error_code) == (State.EXPIRED, "GENERATION_TIMEOUT")
        assert 60 <= row.polls <= 80
        await stage.work()
        assert stage.sim.jobs[0].is_cancel_asked
        await money_is_right(stage, 0)


async def test_a_job_that_succeeds_after_its_time_is_the_houses(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute("clip", "sim: run_ms=1 cancel=late")
        stage.carrier.before = lambda errand: None if is_submission(errand) else NotSent("circuit_open")
        await stage.work(until=lambda row: row.state.has_ended, jobs_max=90)
        stage.carrier.before = lambda _: None
        await stage.work()
        assert (await stage.row(execution_id)).state is State.EXPIRED
        ((_, cogs),) = await stage.costs()
        assert cogs == 4 * 2_000_000
        await money_is_right(stage, 0)


async def test_a_job_that_the_provider_forgets_fails(database: str) -> None:
    async with open_stage(database, "plain") as stage:
        row = await stage.ended(await stage.execute(prompt="sim: vanish=1"))
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")


# Cancelling


async def wish_to_cancel(stage: Stage, execution_id: bytes) -> None:
    row = await stage.row(execution_id)
    asked = replace(row, cancel_requested_at=row.accepted_at)
    assert await stage.executions.step(row, asked, jobs=[Job(CANCEL_AT_PROVIDER)]) is not None


@STYLES
async def test_a_cancelled_job_costs_its_caller_nothing(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state is State.RUNNING)
        await wish_to_cancel(stage, execution_id)
        row = await stage.ended(execution_id)
        assert row.state is State.CANCELED
        assert stage.announced[-1] == "execution.cancelled"
        await money_is_right(stage, 0)


@STYLES
async def test_a_job_that_succeeds_before_it_is_cancelled_is_paid(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        execution_id = await stage.execute(prompt="sim: cancel=late")
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        await wish_to_cancel(stage, execution_id)
        row = await stage.ended(execution_id)
        assert row.state is State.SUCCEEDED
        await money_is_right(stage, 41_000_000)


async def test_a_wish_to_cancel_while_it_is_submitted_is_told_once_the_job_is_known(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        wished: list[Errand] = []
        original = stage.carrier.send

        async def send(errand: Errand) -> Sent:
            sent = await original(errand)
            if is_submission(errand) and not wished:
                wished.append(errand)
                await wish_to_cancel(stage, execution_id)
            return sent

        stage.carrier.send = send  # type: ignore[method-assign]
        stage.jobs = stage.worker()
        row = await stage.ended(execution_id)
        assert row.state is State.CANCELED
        assert stage.sim.jobs[0].is_cancel_asked


async def test_a_wish_to_cancel_is_told_again_until_the_provider_has_heard(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state is State.RUNNING)
        deaf = iter([Ambiguous("reset")])
        stage.carrier.before = lambda errand: next(deaf, None) if errand.method == "PUT" else None
        await wish_to_cancel(stage, execution_id)
        assert (await stage.ended(execution_id)).state is State.CANCELED


# Outputs


async def test_an_address_that_has_expired_is_asked_for_again(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        row = await stage.ended(await stage.execute(prompt="sim: expired=3"))
        assert row.state is State.SUCCEEDED
        assert 2 <= stage.shelf.tries <= 4


async def test_who_cannot_be_reached_is_waited_for_before_an_output_is_lost(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.sim.set_prices({"acme/paint": {"image": "30000", "second": "2000"}})
        execution_id = await stage.execute()
        await stage.work(until=lambda row: row.state is State.REHOSTING)
        begun_s = stage.clock.on_s
        asked: list[float] = []

        def rests(_: Errand) -> Sent | None:
            asked.append(stage.clock.on_s - begun_s)
            return NotSent("resting", 900.0) if len(asked) == 1 else None

        stage.carrier.before = rests
        stage.shelf.is_away = lambda: stage.clock.on_s - begun_s < 1_800
        row = await stage.ended(execution_id)
        assert row.state is State.SUCCEEDED
        assert asked[1] >= 899
        assert 9 <= stage.shelf.tries < 60
        await money_is_right(stage, 41_000_000)


async def test_an_output_that_nobody_can_reach_is_lost_in_the_end_and_booked(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute("clip", duration=4)
        stage.shelf.is_away = lambda: True
        await stage.work(until=lambda row: row.state.has_ended, jobs_max=200)
        row = await stage.row(execution_id)
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert row.ended_at is not None
        assert row.ended_at >= row.expires_at
        ((_, cogs),) = await stage.costs()
        assert cogs == 4 * 2_000_000
        await money_is_right(stage, 0)


async def test_a_job_whose_deployment_is_gone_is_followed_until_it_is_booked(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.sim.set_prices({"acme/paint": {"second": "2000"}})
        execution_id = await stage.execute(prompt="sim: run_ms=200")
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        stage.offer("plain")
        await stage.work(until=lambda row: row.state.has_ended)
        row = await stage.row(execution_id)
        assert (row.state, row.error_code) == (State.FAILED, "MODEL_UNAVAILABLE")
        await stage.work(until=lambda _: stage.clock.on_s > 1_500)
        stage.offer("replicate")
        await stage.work()
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos > 0
        await money_is_right(stage, 0)


@pytest.mark.parametrize("known_in", [1, 2])
async def test_a_job_goes_on_where_it_was_submitted_when_the_catalogue_forgets_that(
    database: str, known_in: int
) -> None:
    async with open_stage(database, "plain" if known_in == 2 else "replicate") as stage:
        stage.versions[1] = catalogue(stage.sim, "plain" if known_in == 2 else "replicate")
        execution_id = await stage.execute(prompt="sim: run_ms=200", changes={"price_version": 1})
        if known_in == 2:  # its deployment came after it was accepted
            stage.versions[2] = catalogue(stage.sim, "replicate")
            stage.view = build_view(stage.versions[2], 2)
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        submitted = len(stage.carrier.errands)
        stage.view = build_view(catalogue(stage.sim, "plain"), known_in + 1)
        row = await stage.ended(execution_id)
        assert (row.state, row.provider) == (State.SUCCEEDED, "replicate")
        assert {each.catalogue_version for each in stage.carrier.errands[:submitted]} == {0}
        assert {each.catalogue_version for each in stage.carrier.errands[submitted:]} == {known_in}
        assert len(stage.sim.jobs) == 1
        ((_, cogs),) = await stage.costs()
        assert cogs > 0


def refusing(*statuses: int) -> Callable[[Errand, Sent], Sent]:
    """The first submissions reach the provider, and its answers become these."""
    left = iter(statuses)

    def refused(errand: Errand, sent: Sent) -> Sent:
        status = next(left, None) if is_submission(errand) else None
        return sent if status is None else replace(sent, status=status, body=b"{}")

    return refused


async def test_a_believed_callback_of_an_earlier_attempt_leads_to_the_booking_of_its_job(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.set_prices({"acme/paint": {"image": "30000"}})
        stage.carrier.after = refusing(503)
        execution_id = await stage.execute(prompt="sim: run_ms=20")
        await stage.work(until=lambda row: row.attempt == 2 and row.state is State.SUBMITTED)
        first, _ = stage.sim.jobs
        told = {"execution": execution_id.hex(), "attempt": 1, "job": first.id, "provider": "fal"}
        await stage.run(HEAR, told | {"is_believed": 0})
        await stage.run(HEAR, told | {"is_believed": 1, "provider": "other"})
        assert all(name != ORPHAN for name, _ in await stage.queued())
        for _ in range(2):
            await stage.run(HEAR, told | {"is_believed": 1})
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        await stage.work()
        assert len(await stage.costs()) == 2
        assert sum(cogs for _, cogs in await stage.costs()) == stage.sim.bill.nanos


async def test_an_earlier_attempts_job_is_booked_though_the_execution_ended_without_any(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.set_prices({"acme/paint": {"image": "30000"}})
        stage.carrier.after = refusing(503, 400)
        execution_id = await stage.execute(prompt="sim: run_ms=20")
        ended = await stage.ended(execution_id)
        assert (ended.state, ended.attempt, ended.provider_job) == (State.FAILED, 2, None)
        first, _ = stage.sim.jobs
        told = {"execution": execution_id.hex(), "attempt": 1, "job": first.id, "provider": "fal", "is_believed": 1}
        await stage.run(HEAR, told)
        await stage.work()
        assert [each.is_cancel_asked for each in stage.sim.jobs] == [True, False]
        ((_, cogs),) = await stage.costs()
        assert cogs == 30_000_000
        await money_is_right(stage, 0)


async def test_a_job_that_two_attempts_are_told_of_is_booked_once(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        stage.sim.set_prices({"acme/paint": {"image": "30000"}})
        stage.carrier.after = refusing(503, 400)
        execution_id = await stage.execute(prompt="sim: run_ms=20")
        ended = await stage.ended(execution_id)
        assert (ended.state, ended.attempt, ended.provider_job) == (State.FAILED, 2, None)
        told = {"execution": execution_id.hex(), "job": stage.sim.jobs[0].id, "provider": "fal", "is_believed": 1}
        for attempt in (1, 2):  # its provider calls at the addresses of both
            await stage.run(HEAR, told | {"attempt": attempt})
            await stage.work()
        ((_, cogs),) = await stage.costs()
        assert cogs == 30_000_000
        await money_is_right(stage, 0)


async def test_a_job_that_never_tells_its_end_is_told_to_the_operator(
    database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_stage(database, "replicate") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        await stage.work(until=lambda row: row.state is State.SUBMITTED)
        stage.offer("plain")
        await stage.work(jobs_max=120)
        assert stage.clock.on_s >= 7_000  # what a busy machine takes is not on that clock
        said = [msgspec.json.decode(line) for line in capfd.readouterr().err.splitlines() if "Unbooked" in line]
        assert [each["execution_id"] for each in said] == [execution_id.hex()]


async def test_an_orphan_is_cancelled_until_its_provider_has_heard(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(prompt="sim: stuck=1")
        deaf = iter([Ambiguous("reset")] * 2)
        stage.carrier.before = lambda errand: next(deaf, None) if errand.method == "PUT" else None
        await stage.work(until=lambda row: row.state.has_ended, jobs_max=90)
        assert (await stage.row(execution_id)).state is State.EXPIRED
        await stage.work()
        assert stage.sim.jobs[0].is_cancel_asked
        assert next(deaf, None) is None


def without_metrics(_: Errand, sent: Sent) -> Sent:
    """An answer that does not tell how much it made."""
    body = msgspec.json.decode(sent.body) if isinstance(sent, Answered) else None
    if not isinstance(body, dict) or "metrics" not in body:
        return sent
    return replace(sent, body=msgspec.json.encode(body | {"metrics": {}}))


@pytest.mark.parametrize("seconds", [4, 16])
async def test_a_film_whose_length_nobody_tells_is_paid_as_it_was_estimated(database: str, seconds: int) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.carrier.after = without_metrics
        estimate = seconds * 60_000_000 + 1_000_000
        execution_id = await stage.execute("clip", duration=seconds, changes={"estimate_nanos": estimate})
        await stage.work(until=lambda row: row.state is State.REHOSTING)
        stage.vault.values.clear()
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert await stage.charge(execution_id) == estimate


@pytest.mark.parametrize(("measured_ms", "paid_ms"), [(3_500, 3_500), (4_040, 4_000)])
async def test_a_film_that_was_measured_is_paid_by_that_and_at_most_as_asked_for(
    database: str, measured_ms: int, paid_ms: int
) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.carrier.after = without_metrics
        stage.shelf.duration_ms = measured_ms
        execution_id = await stage.execute("clip", duration=4)
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert await stage.charge(execution_id) == paid_ms * 60_000 + 1_000_000


@pytest.mark.parametrize(("output", "tries"), [("missing", 8), ("wrong_type", 3)])
async def test_what_cannot_be_kept_after_eight_tries_or_is_of_a_wrong_type_thrice_is_lost_and_not_paid(
    database: str, output: str, tries: int
) -> None:
    async with open_stage(database, "fal") as stage:
        row = await stage.ended(await stage.execute("clip", f"sim: output={output}"))
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        assert stage.shelf.tries == tries
        await money_is_right(stage, 0)
        ((_, cogs),) = await stage.costs()
        assert cogs == 4 * 2_000_000


async def test_outputs_come_from_the_providers_own_hosts_alone(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.carrier.after = lambda errand, sent: _elsewhere(sent)
        row = await stage.ended(await stage.execute())
        assert row.state is State.FAILED
        assert stage.shelf.tries == 0


def _elsewhere(sent: Sent) -> Sent:
    assert not isinstance(sent, NotSent | Ambiguous)
    return replace(sent, body=sent.body.replace(b"http://127.0.0.1", b"http://169.254.169.254"))


async def test_a_job_without_any_output_is_not_paid(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        row = await stage.ended(await stage.execute(prompt="sim: outputs=0"))
        assert (row.state, row.error_code) == (State.FAILED, "GENERATION_FAILED")
        await money_is_right(stage, 0)


async def test_prices_are_those_of_the_moment_it_was_accepted(database: str) -> None:
    async with open_stage(database, "fal") as stage:
        execution_id = await stage.execute(n=2)
        stage.versions[1] = catalogue(stage.sim, "fal")
        dearer = catalogue(stage.sim, "fal", cost={"image": "1"})
        models = tuple(replace(each, price=replace(each.price, image=9_000_000_000_000)) for each in dearer.models)
        stage.view = build_view(replace(dearer, models=models), 2)
        await stage.ended(execution_id)
        assert await stage.charge(execution_id) == TWO_IMAGES
        booked = await stage.books.one("SELECT cogs, price_version FROM settlement")
        assert booked == (2_000, 1)  # two images at the cost of now, and the version of the prices


@STYLES
async def test_every_job_run_twice_has_one_effect(database: str, style: str) -> None:
    async with open_stage(database, style) as stage:
        execution_id = await stage.execute(n=2)
        done = []
        while (task := await stage.next_job()) is not None:
            done.append(task)
            await stage.run(*task)
            for again in done:
                if again[0] != START:
                    await stage.run(*again)
        row = await stage.row(execution_id)
        assert row.state is State.SUCCEEDED
        assert len(stage.sim.jobs) == 1
        await money_is_right(stage, TWO_IMAGES)
        assert LOOK_UP not in [name for name, _ in done]
