"""Files of executions: those that an input names, as a call takes them, and those that a call has made."""

from __future__ import annotations

from waypost.control.file_fetch import FetchFailed, Outputs
from waypost.control.file_store import Delivery, Files
from waypost.kit.errors import ErrorCode, Refusal
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.stores.objects import StoreUnavailable


class ExecutionFiles:
    """`worker.executions.StoredFiles` on the file store."""

    def __init__(self, store: Files, outputs: Outputs) -> None:
        self._store = store
        self._outputs = outputs

    async def as_data_url(self, org_id: bytes, file_id: bytes) -> str:
        try:
            url = await self._store.deliver(org_id, file_id, Delivery.BASE64)
        except StoreUnavailable:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE) from None
        assert isinstance(url, str)
        return url

    async def keep_output(self, execution: AsynchronousExecution, place: int, content: bytes) -> OutputFile:
        try:
            row = await self._outputs.rehost(
                org_id=execution.org_id, execution_id=execution.id, output_index=place, source=content
            )
        except FetchFailed:
            raise Refusal(ErrorCode.GENERATION_FAILED) from None
        except StoreUnavailable:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE) from None
        return OutputFile(row.id, row.content_type or "", row.size_bytes or 0, row.width or 0, row.height or 0)
