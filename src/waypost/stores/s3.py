"""Objects in a bucket of a service that speaks S3.

An object is uploaded in parts as its bytes come, so that memory holds a few parts of it at most. One that is given up
is taken back; what a crash leaves half uploaded shows nowhere and costs room until the bucket's own rule for
incomplete uploads removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import msgspec
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from waypost.stores.objects import PIECE_BYTES, ObjectMissing, StoreUnavailable, in_pieces

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes; 10,000 parts are far more than a file may have
_PARTS_AT_ONCE = 2
_TIMEOUT_S = 60.0  # of one request
_CONNECT_S = 5.0
_RETRIES = 3
_Result = TypeVar("_Result")


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials as they are sent: resolved, not references. An empty `endpoint` is Amazon's own."""

    bucket: str
    endpoint: str
    region: str
    access_key_id: str
    secret_access_key: str


class _GivenUp(Exception):
    """Whoever gave the parts gave up."""


class S3Objects:
    def __init__(self, settings: S3Settings, *, retries: int = _RETRIES) -> None:
        self._store = S3Store(
            settings.bucket,
            endpoint=settings.endpoint or None,
            region=settings.region,
            access_key_id=settings.access_key_id,
            secret_access_key=settings.secret_access_key,
            # One by one: deleting many at once is not spoken by every service that speaks S3.
            disable_bulk_delete=True,
            client_options={
                "allow_http": settings.endpoint.startswith("http://"),
                "timeout": timedelta(seconds=_TIMEOUT_S),
                "connect_timeout": timedelta(seconds=_CONNECT_S),
            },
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=_TIMEOUT_S)},
        )

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        pieces = in_pieces(parts, PIECE_BYTES)
        first, second = await anext(pieces, b""), await anext(pieces, None)
        if second is None:  # one request instead of three
            with _told(), _bucket_there():
                await obstore.put_async(self._store, name, first, use_multipart=False)
            return
        handing = _Handing()
        upload = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                name,
                handing.parts(),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )
        try:
            async for part in _chained((first, second), pieces):
                if not await handing.give(part, upload):
                    break
            handing.end()
            with _told(), _bucket_there():
                await asyncio.shield(upload)
        except BaseException:
            # Not cancelled: it would leave what it has uploaded. Told to end, it takes it back.
            handing.give_up()
            await asyncio.wait((upload,))
            if not upload.cancelled():
                upload.exception()
            raise

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        if start == end:
            return
        try:
            with _told():
                found = await obstore.get_async(self._store, name, options={"range": (start, end)})
                if tuple(found.range) != (start, end):
                    raise ObjectMissing
                async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                    yield bytes(piece)
        except FileNotFoundError:
            raise ObjectMissing from None

    async def delete(self, name: str) -> None:
        with _told(), _bucket_there():
            await obstore.delete_async(self._store, name)


async def _chained(first: Iterable[bytes], rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    for part in first:
        yield part
    async for part in rest:
        yield part


class _Handing:
    """Hands parts from who has them to the upload, one at a time, so that nobody is ahead of the other."""

    def __init__(self) -> None:
        self._parts: asyncio.Queue[bytes | _GivenUp | None] = asyncio.Queue()
        self._is_wanted = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """For the upload."""
        while True:
            self._is_wanted.set()
            part = await self._parts.get()
            if part is None:
                return
            if isinstance(part, _GivenUp):
                raise part
            yield part

    async def give(self, part: bytes, upload: asyncio.Future[_Result]) -> bool:
        """Once the upload wants it; False when that has ended by itself, which is a failure."""
        waiting = asyncio.ensure_future(self._is_wanted.wait())
        try:
            await asyncio.wait((waiting, upload), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if upload.done():
            return False
        self._is_wanted.clear()
        self._parts.put_nowait(part)
        return True

    def end(self) -> None:
        self._parts.put_nowait(None)

    def give_up(self) -> None:
        self._parts.put_nowait(_GivenUp())


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError):
        raise StoreUnavailable("the credentials are refused") from None
    except BaseError:
        raise StoreUnavailable("no answer, or a refusal") from None


@contextlib.contextmanager
def _bucket_there() -> Iterator[None]:
    """What is missing when nothing is read is the bucket: an object that is not there is deleted like any other."""
    try:
        yield
    except FileNotFoundError:
        raise StoreUnavailable("there is no such bucket") from None
