"""What jobs at providers come to: for customers by the catalogue version under which their execution was accepted, for
the house by what holds when the provider's bill is due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from waypost.executions.estimate import job_ceiling
from waypost.executions.input_schemas import schema_of
from waypost.executions.provider_job import asked_by, charge_of, cost_of, made_by
from waypost.kit.ids import derived, sibling
from waypost.metering.price import PriceRow
from waypost.policy.catalogue import Model
from waypost.policy.snapshot import View
from waypost.providers.job import Job
from waypost.storage.asynchronous_executions import Ending, Executions, JobBill
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.stores.vault import VaultError
from waypost.telemetry.events import ProviderJobOrphaned, emit
from waypost.wire.canonical import Usage
from waypost.worker.job_input import JobInputs
from waypost.worker.job_places import JobPlaces

_IMAGE = "image/"


class JobMoney:
    """One process's."""

    def __init__(self, *, places: JobPlaces, inputs: JobInputs, executions: Executions) -> None:
        self._places = places
        self._inputs = inputs
        self._executions = executions

    async def of_success(self, row: AsynchronousExecution, job: Job, files: Sequence[OutputFile]) -> Ending:
        """Its customer pays for what came out, at most what was held."""
        model = await self._model(row)
        images = sum(each.content_type.startswith(_IMAGE) for each in files)
        measured_ms = sum(each.duration_ms for each in files)
        made = made_by(job, images=images, asked_ms=await self._asked_ms(row, model), measured_ms=measured_ms)
        charge_nanos = 0 if model is None else charge_of(made, _prices(model, row), row.hold_nanos)
        return Ending(charge_nanos, made, await self._bills(row, job, made))

    async def of_failure(self, row: AsynchronousExecution, job: Job) -> Ending:
        """Its customer pays nothing, and the house what the provider bills."""
        made = made_by(job, images=_images(row, job), asked_ms=0)
        return Ending(0, Usage(), await self._bills(row, job, made))

    async def book_orphan(self, row: AsynchronousExecution, job: Job) -> None:
        """Of an execution that ended without it. Its provider may tell of one job in the name of several attempts: so a
        job that is not the execution's own is booked by what its provider calls it."""
        made = made_by(job, images=_images(row, job), asked_ms=0)
        emit(ProviderJobOrphaned(provider=row.provider or "", deployment=row.deployment or ""))
        for bill in await self._bills(row, job, made):
            is_own = job.id == row.provider_job
            booked = bill if is_own else JobBill(derived(row.id, f"{row.provider} {job.id}"), bill.cogs_nanos)
            await self._executions.book_orphan(row, booked, made)

    async def _bills(self, row: AsynchronousExecution, job: Job, made: Usage) -> tuple[JobBill, ...]:
        """At the cost of when the provider was asked, as far as the newest version knows."""
        place = await self._places.of(row)
        if place is None or row.attempt == 0:
            return ()
        deployment = place.route.deployment
        costs = deployment.cost.in_force(_ms(row.started_at or row.accepted_at))
        cogs_nanos = cost_of(job, made, costs, by_meter=deployment.cost_by == "metered")
        return (JobBill(sibling(row.id, row.attempt), cogs_nanos),)

    async def _asked_ms(self, row: AsynchronousExecution, model: Model | None) -> int:
        """Of video or sound, which the estimate tells when the input is gone."""
        if model is None:
            return 0
        try:
            asked = await self._inputs.asked_for(row)
        except VaultError:
            asked = None
        if asked is None:
            return asked_by(row.estimate_nanos, _prices(model, row))
        return job_ceiling(model.modality, asked, schema_of(model.modality, model.input_schema)).duration_ms_max

    async def _model(self, row: AsynchronousExecution) -> Model | None:
        """As it was when the execution was accepted."""
        view = self._places.view()
        if view.version != row.price_version:
            view = await self._places.earlier_view(row.price_version) or view
        return _find(view, row)


def _images(row: AsynchronousExecution, job: Job) -> int:
    """That it made and nobody kept."""
    return len(job.outputs) if row.modality == "image" else 0


def _find(view: View, row: AsynchronousExecution) -> Model | None:
    found = view.find(row.model)
    return None if found is None else found.model


def _prices(model: Model, row: AsynchronousExecution) -> PriceRow:
    return model.price.in_force(_ms(row.accepted_at))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
