"""The simulated providers of jobs: the same course at each, in its own words; callbacks, files, the bill."""

from __future__ import annotations

import pytest

from tests.simulator.jobs_client import KINDS, TOKEN, Client, Ear, asked
from tests.simulator.raw_client import control
from waypost.kit.clock import SystemClock
from waypost.kit.errors import ErrorCode
from waypost.providers.job import CallbackKeys, JobState, Signature
from waypost.providers.job_signature import read_key_set
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.simulator import Simulator
from waypost.simulator.job_callback import PLAIN_SECRET, WEBHOOK_SECRET

STYLES = pytest.mark.parametrize("style", KINDS)
FILES = [("paint", b"\x89PNG", 2), ("clip", b"\0\0\0\x1cftyp", 1), ("speech", b"RIFF", 1)]


async def keys_of(sim: Simulator) -> CallbackKeys:
    public = read_key_set((await asked(sim, "GET", "/fal/.well-known/jwks.json")).body)
    return CallbackKeys((WEBHOOK_SECRET, PLAIN_SECRET), public)


async def fetched(sim: Simulator, url: str) -> tuple[int, bytes]:
    heard = await asked(sim, "GET", url.removeprefix(sim.url))
    return heard.status, heard.body


@STYLES
async def test_a_job_goes_from_the_queue_to_files_of_what_was_asked_for(style: str) -> None:
    async with Simulator() as sim:
        for model, signature, made in FILES:
            client = Client(sim, style, f"acme/{model}")
            begun = await client.submit("sim: run_ms=20", n=made, duration=3)
            assert begun.state is JobState.QUEUED
            done = await client.ended(begun.id)
            assert done.state is JobState.SUCCEEDED
            assert len(done.outputs) == made
            for output in done.outputs:
                status, data = await fetched(sim, output.url)
                assert (status, data.startswith(signature)) == (200, True)
            if model == "paint":
                assert done.made.duration_ms == 0
            else:
                assert done.made.duration_ms == 3000


@STYLES
async def test_a_job_that_fails_says_why_and_only_by_code(style: str) -> None:
    codes = {"moderation": ErrorCode.CONTENT_MODERATION_REJECTED, "timeout": ErrorCode.GENERATION_TIMEOUT}
    if style == "plain":
        codes = {"1": ErrorCode.GENERATION_FAILED}
    async with Simulator() as sim:
        client = Client(sim, style)
        for reason, code in codes.items():
            job = await client.ended((await client.submit(f"sim: fail={reason}")).id)
            assert job.state is JobState.FAILED
            assert job.failure is not None
            assert job.failure.code is code


@STYLES
async def test_a_cancelled_job_ends_and_one_that_has_ended_stays(style: str) -> None:
    async with Simulator() as sim:
        client = Client(sim, style)
        begun = await client.submit("sim: stuck=1")
        await client.cancel(begun.id)
        assert (await client.status(begun.id)).state is JobState.CANCELED
        late = await client.submit("sim: cancel=late run_ms=1")
        await client.cancel(late.id)
        assert (await client.ended(late.id)).state is JobState.SUCCEEDED
        await client.cancel(late.id)
        assert (await client.status(late.id)).state is JobState.SUCCEEDED


@STYLES
async def test_callbacks_are_signed_as_the_provider_signs(style: str) -> None:
    async with Simulator() as sim, Ear(500) as ear:
        client, keys = Client(sim, style), await keys_of(sim)
        begun = await client.submit("hi", callback_url=ear.url)
        await sim.until(lambda: 200 in sim.jobs[0].callbacks)
        assert sim.jobs[0].callbacks == [500, 200]  # it calls until somebody answers
        now_s = SystemClock().unix_ns() // 1_000_000_000
        for headers, body in ear.heard:
            assert client.kind.verify(headers, body, keys, now_s, client.target) is Signature.VALID
            assert client.kind.read_callback(headers, body, client.target).job_id == begun.id


@STYLES
@pytest.mark.parametrize(
    ("how", "signature", "times"),
    [("forged", Signature.INVALID, 1), ("unsigned", Signature.ABSENT, 1), ("twice", Signature.VALID, 2)],
)
async def test_callbacks_may_be_forged_unsigned_or_repeated(
    style: str, how: str, signature: Signature, times: int
) -> None:
    async with Simulator() as sim, Ear() as ear:
        client, keys = Client(sim, style), await keys_of(sim)
        await client.submit(f"sim: callback={how}", callback_url=ear.url)
        await sim.until(lambda: len(sim.jobs[0].callbacks) == times)
        now_s = SystemClock().unix_ns() // 1_000_000_000
        assert [client.kind.verify(*each, keys, now_s, client.target) for each in ear.heard] == [signature] * times


async def test_a_callback_may_be_late_early_or_never_come() -> None:
    async with Simulator() as sim, Ear() as ear:
        client = Client(sim, "replicate")
        await client.submit("sim: callback=never run_ms=1", callback_url=ear.url)
        await client.submit("sim: callback=early stuck=1", callback_url=ear.url)
        await client.submit("sim: callback=late late_ms=30 run_ms=1", callback_url=ear.url)
        await sim.until(lambda: len(ear.heard) == 2)
        assert [len(job.callbacks) for job in sim.jobs] == [0, 1, 1]


async def test_jobs_are_found_by_the_callers_token_where_the_provider_lists_them() -> None:
    async with Simulator() as sim, Ear() as ear:
        for style in ("replicate", "plain"):
            client = Client(sim, style)
            call = client.kind.look_up(TOKEN, client.target)
            assert call is not None
            assert client.kind.read_look_up(await client.call(call), TOKEN, client.target) is None
            begun = await client.submit("hi", callback_url=ear.url, token=TOKEN)
            found = client.kind.read_look_up(await client.call(call), TOKEN, client.target)
            assert found is not None
            assert found.id == begun.id


async def test_the_plain_style_makes_one_job_of_one_token() -> None:
    async with Simulator() as sim:
        client = Client(sim, "plain")
        first, second = [await client.submit("hi", token=TOKEN) for _ in range(2)]
        assert first.id == second.id
        assert len(sim.jobs) == 1


async def test_a_submission_may_be_lost_after_or_before_it_was_taken() -> None:
    async with Simulator() as sim:
        client = Client(sim, "replicate")
        sim.arm("reset", style="replicate")
        with pytest.raises((ConnectionError, BadAnswer, IndexError, ValueError)):
            await client.submit("hi")
        assert len(sim.jobs) == 1
        sim.arm("unaccepted", style="replicate")
        with pytest.raises((ConnectionError, BadAnswer, IndexError, ValueError)):
            await client.submit("hi")
        assert len(sim.jobs) == 1


@STYLES
async def test_a_submission_or_a_question_may_be_refused(style: str) -> None:
    async with Simulator(accepted_keys=["k"]) as sim:
        client = Client(sim, style)
        sim.arm("status", style=style, status=429, retry_after="3")
        with pytest.raises(UpstreamError) as refused:
            await client.submit("hi")
        assert (refused.value.failure.retry_after_s, refused.value.failure.is_rate_limit) == (3, True)
        assert sim.jobs == []

        begun = await client.submit("hi")
        sim.arm("status", style=f"{style}-status", status=503)
        with pytest.raises(UpstreamError):
            await client.status(begun.id)
        assert (await client.ended(begun.id)).state is JobState.SUCCEEDED
        answer = await client.call(client.kind.status(begun.id, client.target), key="wrong")
        assert answer.status == 401


async def test_addresses_of_outputs_expire_and_are_given_anew() -> None:
    async with Simulator() as sim:
        client = Client(sim, "replicate")
        begun = await client.submit("sim: expired=1")
        stale = (await client.ended(begun.id)).outputs[0].url
        fresh = (await client.status(begun.id)).outputs[0].url
        assert ((await fetched(sim, stale))[0], (await fetched(sim, fresh))[0]) == (403, 200)


async def test_what_is_at_the_address_may_be_missing_something_else_or_far_longer() -> None:
    async with Simulator() as sim:
        client = Client(sim, "fal", "acme/clip")
        missing, page, long = [
            (await client.ended((await client.submit(f"sim: {words}")).id)).outputs[0].url
            for words in ("output=missing", "output=wrong_type", "bytes=100000")
        ]
        assert (await fetched(sim, missing))[0] == 404
        assert (await fetched(sim, page))[1].startswith(b"<!doctype")
        assert len((await fetched(sim, long))[1]) > 100_000


async def test_a_provider_may_forget_a_job_that_has_ended() -> None:
    async with Simulator() as sim:
        client = Client(sim, "plain")
        assert (await client.ended((await client.submit("sim: vanish=1")).id)).state is JobState.GONE


async def test_the_bill_is_by_time_at_one_provider_and_by_what_was_made_at_the_others() -> None:
    prices = {"second": "1000", "image": "40000", "request": "500"}
    async with Simulator() as sim:
        sim.set_prices(dict.fromkeys(("acme/paint", "acme/clip"), prices))
        for style in KINDS:
            for model in ("acme/paint", "acme/clip"):
                client = Client(sim, style, model)
                await client.ended((await client.submit("sim: run_ms=25", n=2, duration=3)).id)
            await client.ended((await client.submit("sim: run_ms=25 fail=1")).id)
        bill = {(line.style, line.model): line.nanos for line in sim.bill.lines}
        failed = [line for line in sim.bill.lines if line.style == "replicate"][-1]
        report = (await control(sim, "GET", "/_sim/jobs?last=2")).json
    made_2_films_of_3_s = 2 * 3 * 1_000_000 + 500_000
    assert bill["replicate", "acme/paint"] == 2 * 40_000_000 + 25_000 + 500_000
    assert bill["fal", "acme/paint"] == bill["plain", "acme/paint"] == 2 * 40_000_000 + 500_000
    assert bill["plain", "acme/clip"] == made_2_films_of_3_s
    assert bill["fal", "acme/clip"] == 3 * 1_000_000 + 500_000
    assert failed.nanos == 25_000 + 500_000
    assert [job["style"] for job in report["jobs"]] == ["plain", "plain"]


async def test_an_unknown_word_is_refused() -> None:
    async with Simulator() as sim:
        with pytest.raises(UpstreamError) as refused:
            await Client(sim, "fal").submit("sim: colour=red")
        assert refused.value.failure.code is ErrorCode.INPUT_VALIDATION_ERROR
