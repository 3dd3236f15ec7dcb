"""Jobs at providers whose deployment has left the catalogue: where they are asked for, and at what cost booked."""

from __future__ import annotations

import pytest

from tests.worker.job_stage import COSTS, Stage, catalogue, open_stage
from tests.worker.test_provider_jobs import is_submission, money_is_right
from waypost.executions.lifecycle import State
from waypost.kit.values import replace
from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import View, build_view
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.storage.provider_callbacks import HEAR
from waypost.wire.errand import Errand, Sent
from waypost.worker.job_places import LOOKED_BACK_MAX, JobPlaces

RUN_MS, SECOND_NANOS, IMAGE_NANOS = 20, 2_000_000, 30_000_000


def in_force(stage: Stage, version: int, content: Catalogue) -> None:
    stage.versions[version] = content
    stage.view = build_view(content, version)


def elsewhere(content: Catalogue) -> Catalogue:
    """The same providers at an address where nobody is."""
    moved = (replace(each, base_url="http://127.0.0.1:9") for each in content.providers)
    return replace(content, providers=tuple(moved))


async def submitted(stage: Stage) -> bytes:
    execution_id = await stage.execute(prompt=f"sim: run_ms={RUN_MS}")
    await stage.work(until=lambda row: row.state is State.SUBMITTED)
    return execution_id


async def test_a_job_is_asked_for_where_it_was_submitted_though_its_provider_had_moved_before(database: str) -> None:
    async with open_stage(database, "replicate") as stage:
        stage.sim.set_prices({"acme/paint": {"second": "2000"}})
        good = catalogue(stage.sim, "replicate")
        in_force(stage, 1, elsewhere(good))
        in_force(stage, 2, good)
        execution_id = await submitted(stage)
        errands = len(stage.carrier.errands)
        in_force(stage, 3, catalogue(stage.sim, "plain"))
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        assert {each.catalogue_version for each in stage.carrier.errands[errands:]} == {2}
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos > 0


async def test_a_job_is_found_however_many_versions_came_while_it_waited(database: str) -> None:
    async with open_stage(database) as stage:
        stage.sim.set_prices({"acme/paint": {"second": "2000"}})
        for version in range(1, 3 * LOOKED_BACK_MAX):
            stage.versions[version] = catalogue(stage.sim, "plain")
        in_force(stage, 3 * LOOKED_BACK_MAX, catalogue(stage.sim, "replicate"))
        execution_id = await submitted(stage)
        for version in range(1, 2 * LOOKED_BACK_MAX):
            in_force(stage, 3 * LOOKED_BACK_MAX + version, catalogue(stage.sim, "plain"))
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        ((_, cogs),) = await stage.costs()
        assert cogs == stage.sim.bill.nanos > 0


async def test_a_job_costs_what_it_did_in_the_version_that_it_was_submitted_under(database: str) -> None:
    async with open_stage(database) as stage:
        in_force(stage, 1, catalogue(stage.sim, "replicate"))
        in_force(stage, 2, catalogue(stage.sim, "replicate", cost=COSTS | {"second": "6000"}))
        execution_id = await submitted(stage)
        in_force(stage, 3, catalogue(stage.sim, "plain"))
        assert (await stage.ended(execution_id)).state is State.SUCCEEDED
        ((_, cogs),) = await stage.costs()
        assert cogs == 3 * SECOND_NANOS * RUN_MS // 1000


@pytest.mark.parametrize(
    ("known_in", "newest", "found_in"),
    [((1, 2, 3), 4, 3), ((1,), 3 * LOOKED_BACK_MAX, 1), ((2,), 3, 2), ((1,), 1, None), ((), 9, None)],
)
async def test_where_it_is_not_written_down_the_last_version_that_knew_the_deployment_counts(
    database: str, known_in: tuple[int, ...], newest: int, found_in: int | None
) -> None:
    async with open_stage(database, "replicate") as stage:
        row = await stage.row(await submitted(stage))
        unwritten = replace(row, catalogue_version=None)
        asked: list[int] = []

        async def earlier(version: int) -> View | None:
            asked.append(version)
            return build_view(catalogue(stage.sim, "replicate" if version in known_in else "plain"), version)

        view = build_view(catalogue(stage.sim, "plain"), newest)
        place = await JobPlaces(lambda: view, earlier).of(unwritten)
        assert (None if place is None else place.version) == found_in
        assert len(set(asked)) == len(asked) <= LOOKED_BACK_MAX + 1
        assert not {0, newest} & set(asked)


async def test_an_earlier_attempts_job_is_booked_by_the_version_that_it_was_submitted_under(database: str) -> None:
    async with open_stage(database) as stage:
        in_force(stage, 1, catalogue(stage.sim, "plain"))
        in_force(stage, 2, catalogue(stage.sim, "fal", cost=COSTS | {"image": "90000"}))
        refusals = iter([503])

        def refused(errand: Errand, sent: Sent) -> Sent:
            status = next(refusals, None) if is_submission(errand) else None
            return sent if status is None else replace(sent, status=status, body=b"{}")

        stage.carrier.after = refused
        execution_id = await stage.execute(prompt=f"sim: run_ms={RUN_MS}")
        await stage.work(until=lambda row: row.attempt == 2)
        in_force(stage, 3, catalogue(stage.sim, "replicate"))
        row = await stage.ended(execution_id)
        assert (row.state, row.provider, row.attempt) == (State.SUCCEEDED, "replicate", 2)
        in_force(stage, 4, catalogue(stage.sim, "plain"))
        errands = len(stage.carrier.errands)
        told = {"execution": execution_id.hex(), "attempt": 1, "job": stage.sim.jobs[0].id, "provider": "fal"}
        await stage.run(HEAR, told | {"is_believed": 1})
        await stage.work()
        assert {each.catalogue_version for each in stage.carrier.errands[errands:]} == {2}
        assert sorted(cogs for _, cogs in await stage.costs()) == [SECOND_NANOS * RUN_MS // 1000, 3 * IMAGE_NANOS]
        await money_is_right(stage, await stage.charge(execution_id))


async def test_the_version_of_a_submission_is_written_down_with_it(database: str) -> None:
    async with open_stage(database) as stage:
        seen: list[AsynchronousExecution] = []
        in_force(stage, 5, catalogue(stage.sim, "replicate"))
        execution_id = await submitted(stage)
        seen.append(await stage.row(execution_id))
        in_force(stage, 6, catalogue(stage.sim, "plain", "replicate"))
        seen.append(await stage.ended(execution_id))
        assert [(each.price_version, each.catalogue_version) for each in seen] == [(1, 5), (1, 5)]
