"""Files from end to end: bytes into the encrypted store and out of it, with the rows that say whose they are.

Bytes are never held whole: they go through in pieces, sealed on the way in and opened on the way out. What is too
large, has no type that we know, or does not come to its end leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from enum import Enum

import msgspec

from waypost.control.file_bounds import FileBounds
from waypost.control.file_urls import INPUT_S, FileUrls, UrlUse
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.kit.ids import Ids
from waypost.storage import file_sweep, files
from waypost.storage.files import Actor, Content, FileRow, FileState, UploadEnded
from waypost.storage.pool import Pool
from waypost.stores.objects import ObjectMissing, Objects, StoreUnavailable
from waypost.stores.sealing import KEY_BYTES, FileKeys, SealingStream, Tampered, WrappedKey, opened, sealed_span
from waypost.telemetry.events import FilesNotErased, FileUnreadable, emit
from waypost.telemetry.metrics import Counter, Page
from waypost.wire.file_type import HEAD_BYTES, file_type
from waypost.wire.media_duration import DurationReader
from waypost.wire.media_type import data_url

UPLOADS_AT_ONCE = 64  # of one process: each holds a few MiB
UPLOADS_OF_ONE = 16  # organisation's among them, so that others get through
UPLOAD_TOTAL_S = 1800.0  # an object is expected to be written within `storage.files.WRITING_MAX`
INLINE_BYTES_MAX = 10 * 1024 * 1024  # of an input in a provider's request, before base64 makes it a third more
INLINED_BYTES_MAX = 44 * 1024 * 1024  # of all of one request; what a gateway takes from the worker is 64 MiB


class FileTooLarge(Exception):
    """More bytes than may be. What was written of them is gone."""


class TypeUnsupported(Exception):
    """The bytes are of no type that we know. Nothing of them was kept."""


class Delivery(Enum):
    """How an input reaches a provider."""

    URL = "url"  # a signed URL of ours, for 15 minutes
    BASE64 = "base64"  # inside the request


class OpenFile(msgspec.Struct, frozen=True):
    """A file to be read. `parts` is an async generator: to be read to its end, or closed."""

    row: FileRow
    parts: AsyncGenerator[bytes, None]


class Files:
    """One process's. `pool` is the app's; `read_keys` gives the file keys by version, as they are now."""

    def __init__(
        self,
        *,
        pool: Pool,
        objects: Objects,
        read_keys: Callable[[], Mapping[int, bytes]],
        urls: FileUrls,
        clock: Clock,
        ids: Ids,
        bounds: FileBounds,
        page: Page | None = None,
    ) -> None:
        self.pool = pool
        self.urls = urls
        self.bounds = bounds
        self._objects = objects
        self._read_keys = read_keys
        self._keys = FileKeys(dict(read_keys()))
        self._clock = clock
        self._ids = ids
        self._uploads: list[bytes] = []  # whose they are
        self._stored_bytes = 0
        self._taken_in = Counter("", "")
        if page is not None:
            self._taken_in = page.counter("waypost_file_received_bytes", "Bytes of files taken into the store.")
            page.gauge("waypost_file_bytes", "Bytes of all files, as of the last sweep.", lambda: self._stored_bytes)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC)

    # In.

    async def receive(self, row: FileRow, source: AsyncIterable[bytes], *, source_ip: str | None) -> FileRow:
        """The bytes of an awaited upload. Raises FileTooLarge, TypeUnsupported, StoreUnavailable, TimeoutError, and of
        `storage.files` UploadEnded and StorageFull."""
        own = self._uploads.count(row.org_id)
        if len(self._uploads) >= UPLOADS_AT_ONCE or own >= UPLOADS_OF_ONE:
            raise StoreUnavailable("as many uploads as may be are under way")
        self._uploads.append(row.org_id)
        try:
            async with asyncio.timeout(UPLOAD_TOTAL_S):
                content = await self.write(row.id, source, bytes_max=self.bounds.bytes_max)
        finally:
            self._uploads.remove(row.org_id)
        try:
            return await files.complete_upload(
                self.pool,
                row,
                content,
                source_ip=source_ip,
                bytes_max=self.bounds.organisation_bytes,
                now=self.now(),
            )
        except (UploadEnded, files.StorageFull):
            await self.discard(content)
            raise

    async def write(self, file_id: bytes, source: AsyncIterable[bytes], *, bytes_max: int) -> Content:
        """Into the store, as an object that is erased unless a row takes it. Raises as `receive` does."""
        object_id = self._ids.new()
        await files.expect_object(self.pool, object_id, self.now())
        async with aclosing(_bounded(source, bytes_max)) as parts:
            head = await _head(parts)
            found = file_type(head)
            if found is None:
                raise TypeUnsupported
            key = os.urandom(KEY_BYTES)
            stream, duration = SealingStream(key, file_id), DurationReader(found.content_type)
            await self._objects.put(object_id.hex(), _sealed(stream, duration, head, parts))
        wrapped = self._keys.wrap(key, file_id)
        self._taken_in.add(by=stream.size_bytes)
        return Content(
            object_id,
            wrapped.sealed,
            wrapped.version,
            found.content_type,
            stream.size_bytes,
            stream.sha256,
            found.width,
            found.height,
            duration.finish(),
        )

    async def discard(self, content: Content) -> None:
        """Erase what no row has taken; if that fails now, the next sweep does it."""
        await files.drop_object(self.pool, content.object_id, self.now())
        await self._erase([content.object_id])

    # Out.

    async def open_file(self, row: FileRow, start: int = 0, end: int | None = None) -> OpenFile:
        """From `start` up to `end`. The first piece is read at once, so that what cannot be read is told before an
        answer begins. Raises StoreUnavailable; Refusal 500, and an event tells which file, when it is damaged."""
        assert row.size_bytes is not None
        parts = self._read(row, start, row.size_bytes if end is None else end)
        first = await anext(parts, b"")
        return OpenFile(row, _with_first(first, parts))

    async def open_input(self, org_id: bytes, file_id: bytes) -> OpenFile:
        """A file that a request names. Raises Refusal FILE_NOT_FOUND for one that is unknown, another's, or not
        uploaded yet; else as `open_file`."""
        return await self.open_file(await self.input_row(org_id, file_id))

    async def input_row(self, org_id: bytes, file_id: bytes) -> FileRow:
        """The same without opening it: for checking a request before anything is done for it."""
        row = await files.find_file(self.pool, org_id, file_id, self.now())
        if row is None or row.state is not FileState.READY:
            raise Refusal(ErrorCode.FILE_NOT_FOUND)
        return row

    async def sizes(self, org_id: bytes, file_ids: Collection[bytes]) -> dict[bytes, int]:
        """The bytes of each of these that the organisation has, ready to be read."""
        return await files.ready_sizes(self.pool, org_id, file_ids, self.now())

    async def deliver(
        self,
        org_id: bytes,
        file_id: bytes,
        how: Delivery | str,
        *,
        inline_bytes_max: int = INLINE_BYTES_MAX,
        until_s: int = 0,
    ) -> str:
        """An input as its provider takes it: a URL, good until `until_s` in Unix seconds and at least for 15 minutes,
        or a data URL. Without a `public_url` there is no URL, and a data URL takes its place. Raises as `open_input`,
        and Refusal 413 for what is too large to be inlined."""
        if Delivery(how) is Delivery.URL and self.urls.public_url is not None:
            return self.signed_url(await self.input_row(org_id, file_id), until_s=until_s)
        content, content_type = await self.read_input(org_id, file_id, bytes_max=inline_bytes_max)
        return data_url(content_type, base64.b64encode(content).decode())

    async def read_input(
        self, org_id: bytes, file_id: bytes, *, bytes_max: int = INLINE_BYTES_MAX
    ) -> tuple[bytes, str]:
        """A whole input and its type. Raises as `open_input`, and Refusal 413 for a larger one."""
        row = await self.input_row(org_id, file_id)
        assert row.size_bytes is not None
        assert row.content_type is not None
        if row.size_bytes > bytes_max:
            told = f"This model takes files of at most {bytes_max:,} bytes here."
            raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told)
        opened_file = await self.open_file(row)
        return b"".join([part async for part in opened_file.parts]), row.content_type

    def signed_url(self, row: FileRow, *, until_s: int = 0) -> str:
        """For a provider, until then and for 15 minutes at least. Needs a `public_url`."""
        assert self.urls.public_url is not None
        expires_s = max(self._clock.unix_ns() // 1_000_000_000 + INPUT_S, until_s)
        return self.urls.url(UrlUse.INPUT, row.id, expires_s=expires_s, content_type=row.content_type or "")

    async def _read(self, row: FileRow, start: int, end: int) -> AsyncGenerator[bytes, None]:
        assert row.object_id is not None
        assert row.size_bytes is not None
        span = sealed_span(row.size_bytes, start, end)
        try:
            key = self._unwrap(row)
            async with (
                aclosing(self._objects.read(row.object_id.hex(), span.start, span.end)) as sealed,
                aclosing(opened(sealed, key, row.id, size_bytes=row.size_bytes, start=start, end=end)) as parts,
            ):
                async for part in parts:
                    yield part
        except (ObjectMissing, Tampered, KeyError) as error:
            emit(FileUnreadable(file_id=row.id.hex(), error_type=type(error).__name__))
            raise Refusal(ErrorCode.INTERNAL_ERROR) from None

    def _unwrap(self, row: FileRow) -> bytes:
        assert row.data_key is not None
        assert row.key_version is not None
        wrapped = WrappedKey(row.key_version, row.data_key)
        try:
            return self._keys.unwrap(wrapped, row.id)
        except KeyError:  # made since we looked
            self._keys = FileKeys(dict(self._read_keys()))
            return self._keys.unwrap(wrapped, row.id)

    # In time.

    async def delete(self, org_id: bytes, file_id: bytes, actor: Actor) -> bool:
        """For everybody at once; False when there is none. A job erases the object."""
        return await files.delete_file(self.pool, org_id, file_id, actor, self.now())

    async def sweep(self) -> None:
        """Delete what has expired, erase what nobody keeps, let the newest key wrap everything. Any number of processes
        may do so at once, and any of them may end in the middle."""
        now = self.now()
        while await file_sweep.expire_files(self.pool, now) == file_sweep.BATCH:
            pass
        await file_sweep.forget_audit(self.pool, now)
        await self._rewrap()
        await self.erase_due()
        self._stored_bytes = await file_sweep.stored_bytes(self.pool)

    async def erase_due(self) -> None:
        """Erase the objects that nobody keeps; when the store is away, another time."""
        now = self.now()
        while doomed := await file_sweep.objects_to_erase(self.pool, now):
            if not await self._erase(doomed):
                emit(FilesNotErased(backlog=await file_sweep.erasure_backlog(self.pool, now)))
                break

    async def _erase(self, object_ids: list[bytes]) -> bool:
        """Whether the store did."""
        erased = []
        try:
            for object_id in object_ids:
                await self._objects.delete(object_id.hex())
                erased.append(object_id)
        except StoreUnavailable:
            return False
        finally:
            await file_sweep.objects_erased(self.pool, erased, self.now())
        return True

    async def _rewrap(self) -> None:
        self._keys = FileKeys(dict(self._read_keys()))
        while batch := await file_sweep.old_wrappings(self.pool, self._keys.newest):
            for old in batch:
                try:
                    key = self._keys.unwrap(WrappedKey(old.key_version, old.data_key), old.file_id)
                except (KeyError, Tampered) as error:
                    emit(FileUnreadable(file_id=old.file_id.hex(), error_type=type(error).__name__))
                    return  # the secrets are not those of these files: not to be told of each
                wrapped = self._keys.wrap(key, old.file_id)
                new = file_sweep.Wrapping(old.file_id, wrapped.sealed, wrapped.version)
                await file_sweep.rewrap(self.pool, new, old_version=old.key_version)


async def _bounded(source: AsyncIterable[bytes], bytes_max: int) -> AsyncGenerator[bytes, None]:
    """Raises FileTooLarge as soon as there is more."""
    size = 0
    async for part in source:
        size += len(part)
        if size > bytes_max:
            raise FileTooLarge
        yield part


async def _head(parts: AsyncIterator[bytes]) -> bytes:
    """As many bytes as it takes to know the type; the rest is left in `parts`."""
    head = bytearray()
    async for part in parts:
        head += part
        if len(head) >= HEAD_BYTES:
            break
    return bytes(head)


async def _sealed(
    stream: SealingStream, duration: DurationReader, head: bytes, rest: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    duration.feed(head)
    if sealed := stream.update(head):
        yield sealed
    async for part in rest:
        duration.feed(part)
        if sealed := stream.update(part):
            yield sealed
    yield stream.finish()


async def _with_first(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        if first:
            yield first
        async for part in rest:
            yield part
