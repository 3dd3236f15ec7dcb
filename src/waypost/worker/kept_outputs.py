"""Outputs of jobs, kept as files of the organisation: shown by the step in which the execution succeeds."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from waypost.control.file_fetch import FetchFailed, FetchFailure, Outputs
from waypost.executions.provider_job import WRONG_TYPE_TRIES_MAX
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.files import UploadEnded
from waypost.stores.objects import StoreUnavailable
from waypost.wire.media_type import split_data_url
from waypost.worker.job_steps import OutputNotKept, OutputsAway, OutputUnfit

_BY_FAILURE: dict[FetchFailure, Callable[[], Exception]] = {
    FetchFailure.UNREACHABLE: OutputsAway,
    FetchFailure.TOO_LARGE: OutputUnfit,
    FetchFailure.TYPE_UNSUPPORTED: lambda: OutputUnfit(WRONG_TYPE_TRIES_MAX),
}


class KeptOutputs:
    """`worker.job_steps.Outputs`, by the file store."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    async def rehost(self, execution: AsynchronousExecution, index: int, address: str) -> OutputFile:
        """`address` is where the provider has it, or a data URL. Raises OutputNotKept, OutputUnfit, OutputsAway."""
        try:
            row = await self._outputs.rehost(
                org_id=execution.org_id,
                execution_id=execution.id,
                output_index=index,
                source=_inline(address) if address.startswith("data:") else address,
            )
        except FetchFailed as failed:
            raise _BY_FAILURE.get(failed.failure, OutputNotKept)() from None
        except StoreUnavailable:
            raise OutputsAway from None
        except (UploadEnded, TimeoutError):
            raise OutputNotKept from None
        assert row.content_type is not None
        assert row.size_bytes is not None
        measures = row.width or 0, row.height or 0, row.duration_ms or 0
        return OutputFile(row.id, row.content_type, row.size_bytes, *measures)


def _inline(address: str) -> bytes:
    try:
        return base64.b64decode(split_data_url(address)[1], validate=True)
    except binascii.Error:
        raise OutputNotKept from None
