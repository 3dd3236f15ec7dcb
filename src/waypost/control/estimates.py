"""What an execution may cost, before it is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from waypost.executions.call import CALLED, fault_at, request_of
from waypost.executions.estimate import job_ceiling
from waypost.executions.input_schemas import schema_of
from waypost.executions.lifecycle import Mode
from waypost.kit.errors import ErrorCode, Fault, InvalidFields, Refusal
from waypost.kit.money import Nanos
from waypost.metering.estimate import upper_bound
from waypost.policy.catalogue import Model
from waypost.policy.ceiling import ceiling_of_request, output_tokens_max_of


def estimate_of(model: Model, body_input: Mapping[str, Any], *, at_ms: int) -> Nanos:
    """The most it can come to at the prices of that moment, whichever deployment answers. Raises InvalidFields for
    what a call would be refused for."""
    prices = model.price.in_force(at_ms)
    estimates = []
    if is_for_jobs(model):
        schema = schema_of(model.modality, model.input_schema)
        estimates.append(upper_bound(job_ceiling(model.modality, body_input, schema), prices))
    if is_for_calls(model):
        try:
            request = request_of(model.modality, model.slug, body_input)
        except Refusal as refusal:
            raise _of_the_input(refusal) from None
        ceiling = ceiling_of_request(request, model, prices, output_tokens_max_of(request, model))
        estimates.append(upper_bound(ceiling, prices))
    return max(estimates)


def is_for_jobs(model: Model) -> bool:
    """Whether it may be a provider's job that answers."""
    return model.modality not in CALLED or any(Mode(each.mode).is_job for each in model.deployments)


def is_for_calls(model: Model) -> bool:
    """Whether it may be a call that answers."""
    return model.modality in CALLED and not all(Mode(each.mode).is_job for each in model.deployments)


def _of_the_input(refusal: Refusal) -> Refusal:
    if refusal.code is not ErrorCode.INPUT_VALIDATION_ERROR:
        return refusal
    return InvalidFields([Fault(fault_at(refusal), "INVALID_VALUE", refusal.message)])
