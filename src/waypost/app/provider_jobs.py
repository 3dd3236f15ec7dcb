"""The work at providers of jobs, put together: gateways carry it, the file store keeps what is made."""

from __future__ import annotations

from collections.abc import Callable

from waypost.control.file_store import Files
from waypost.control.services import Services
from waypost.executions.callback_address import CallbackAddresses
from waypost.kit.errors import ErrorCode, Refusal
from waypost.storage.catalogues import EarlierViews
from waypost.stores.objects import StoreUnavailable
from waypost.telemetry.metrics import Counter
from waypost.worker.job_desk import JobDesk, Send
from waypost.worker.job_input import Content, Deliver, JobInputs
from waypost.worker.job_money import JobMoney
from waypost.worker.job_places import JobPlaces
from waypost.worker.job_steps import JobSteps, Outputs
from waypost.worker.provider_jobs import ProviderJobs


def make_provider_jobs(
    services: Services,
    addresses: CallbackAddresses,
    send: Send,
    outputs: Outputs,
    *,
    dice: Callable[[], float],
    ended: Counter,
) -> ProviderJobs:
    """`ended` counts by model, outcome and code."""
    places = JobPlaces(services.view, EarlierViews(services.pool).at)
    desk = JobDesk(places=places, send=send, addresses=addresses, dice=dice)
    inputs = JobInputs(services.vault, _deliver(services.files), desk.upload)
    money = JobMoney(places=places, inputs=inputs, executions=services.executions)
    steps = JobSteps(
        executions=services.executions,
        money=money,
        vault=services.vault,
        clock=services.clock,
        dice=dice,
        ended=ended,
    )
    return ProviderJobs(steps, desk, inputs, outputs)


def _deliver(files: Files) -> Deliver:
    async def deliver(org_id: bytes, file_id: bytes, how: str, until_s: int) -> str | Content:
        try:
            if how == "passthrough":
                return Content(*await files.read_input(org_id, file_id))
            return await files.deliver(org_id, file_id, how, until_s=until_s)
        except StoreUnavailable:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE) from None

    return deliver
