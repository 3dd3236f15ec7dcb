"""Outputs of models fetched from where their provider has them, and kept as files: the provider's address is shown to
nobody.

The address comes from a stranger. That it is at a host of the provider's, the caller has seen to
(`policy.job_document.may_serve_outputs`); it is called through `upstream.guarded_session` only, so whatever host that
is, it is on the public internet or in `[egress] allow`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum

from waypost.control.file_store import Files, FileTooLarge, TypeUnsupported
from waypost.kit.ids import Ids
from waypost.storage import files
from waypost.storage.files import FileRow
from waypost.telemetry.metrics import Counter, Page
from waypost.upstream.guarded_session import Bounds, CallFailed, Failure, GuardedSession

OUTPUT_BYTES_MAX = 2 * 1024 * 1024 * 1024
BOUNDS = Bounds(connect_s=5.0, idle_s=60.0, total_s=1800.0, answer_bytes=OUTPUT_BYTES_MAX)


class FetchFailure(Enum):
    """Why there is no output. reason → whether the same address may give it another time."""

    FORBIDDEN = ("forbidden", False)  # where nobody may call, or it led elsewhere
    EXPIRED = ("expired", False)  # the address is not good any more: the provider may give another one
    UNREACHABLE = ("unreachable", True)  # nobody there
    UNAVAILABLE = ("unavailable", True)  # no answer, or not all of it, or an error
    TOO_LARGE = ("too_large", False)
    TYPE_UNSUPPORTED = ("type_unsupported", False)

    def __init__(self, reason: str, is_retryable: bool) -> None:
        self.reason = reason
        self.is_retryable = is_retryable


class FetchFailed(Exception):
    """There is no output. The text is the reason's name, and nothing of the address or the answer."""

    def __init__(self, failure: FetchFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


# What an answer's status says of the address: those who sign addresses refuse a late one by 400, 401 or 403.
_EXPIRED_STATUSES = frozenset((400, 401, 403, 404, 410))


class Outputs:
    """Keeps outputs of executions. `session` is the process's own."""

    def __init__(self, store: Files, session: GuardedSession, ids: Ids, page: Page | None = None) -> None:
        self._store = store
        self._session = session
        self._ids = ids
        self._failures = Counter("", "", ("reason",))
        if page is not None:
            self._failures = page.counter(
                "waypost_file_fetch_failures", "Outputs that were not fetched, by reason.", ("reason",)
            )

    async def rehost(
        self,
        *,
        org_id: bytes,
        execution_id: bytes,
        output_index: int,
        source: str | bytes,
        region: str = "US",
    ) -> FileRow:
        """An output as a file, held until `storage.files.show_outputs_on` shows it. `source` is its bytes, or its
        address.

        Of one index of one execution there is one file: a repetition gives it without fetching anything. Raises
        FetchFailed, and StoreUnavailable."""
        held = await files.find_output(self._store.pool, org_id, execution_id, output_index)
        if held is not None:
            return held
        file_id = self._ids.new()
        parts = _whole(source) if isinstance(source, bytes) else self._fetched(source)
        try:
            content = await self._store.write(file_id, parts, bytes_max=OUTPUT_BYTES_MAX)
        except FetchFailed as failed:
            raise self._counted(failed.failure) from None
        except FileTooLarge:
            raise self._counted(FetchFailure.TOO_LARGE) from None
        except TypeUnsupported:
            raise self._counted(FetchFailure.TYPE_UNSUPPORTED) from None
        row = await files.hold_output(
            self._store.pool,
            content,
            file_id=file_id,
            org_id=org_id,
            execution_id=execution_id,
            output_index=output_index,
            region=region,
            ttl_days_default=self._store.bounds.ttl_days,
            now=self._store.now(),
        )
        if row.id != file_id:  # somebody else was first
            await self._store.discard(content)
        return row

    async def _fetched(self, url: str) -> AsyncIterator[bytes]:
        try:
            async with self._session.open("GET", url, bounds=BOUNDS) as incoming:
                _check_answer(incoming.status, incoming.headers)
                async for part in incoming.parts():
                    yield part
        except CallFailed as failed:
            raise FetchFailed(_FAILURES.get(failed.failure, FetchFailure.UNAVAILABLE)) from None

    def _counted(self, failure: FetchFailure) -> FetchFailed:
        self._failures.add(failure.reason)
        return FetchFailed(failure)


_FAILURES = {
    Failure.FORBIDDEN: FetchFailure.FORBIDDEN,
    Failure.TOO_LARGE: FetchFailure.TOO_LARGE,
    Failure.UNKNOWN_HOST: FetchFailure.UNREACHABLE,
    Failure.REFUSED: FetchFailure.UNREACHABLE,
}


def _check_answer(status: int, headers: dict[str, str]) -> None:
    """Raises FetchFailed unless what follows is the whole output, as it is."""
    if status in _EXPIRED_STATUSES:
        raise FetchFailed(FetchFailure.EXPIRED)
    if 300 <= status < 400:
        raise FetchFailed(FetchFailure.FORBIDDEN)  # to somewhere that nobody has named
    if status != 200 or headers.get("content-encoding", "identity") != "identity":
        raise FetchFailed(FetchFailure.UNAVAILABLE)
    if "content-length" not in headers and headers.get("transfer-encoding", "").lower() != "chunked":
        raise FetchFailed(FetchFailure.UNAVAILABLE)  # ends with the connection: nobody can tell whether it was whole


async def _whole(source: bytes) -> AsyncIterator[bytes]:
    yield source
