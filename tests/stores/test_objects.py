"""What every store of objects promises, held against a folder and against a real S3 server."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.stores.bucket import serving
from waypost.kit.values import replace
from waypost.stores.objects import PIECE_BYTES, LocalObjects, ObjectMissing, Objects, StoreUnavailable, examine
from waypost.stores.s3 import S3Objects, S3Settings

NAME = "0192f0c4aaaa7bbb8ccc0123456789ab"


class Store(msgspec.Struct):
    """`left` names what there is in the store, whole or begun."""

    objects: Objects
    left: Callable[[], list[str]]


@pytest.fixture(params=["folder", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        folder = tmp_path / "files"
        yield Store(LocalObjects(folder), lambda: files_of(folder))
        return
    with serving(tmp_path) as bucket:
        left = lambda: [path.name for path in (*bucket.objects(), *bucket.unfinished())]  # noqa: E731
        yield Store(S3Objects(bucket.settings), left)


def files_of(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def whole(objects: Objects, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in objects.read(NAME, start, end)])


async def test_an_object_comes_back_as_it_was_given_whole_and_in_parts(store: Store) -> None:
    content = os.urandom(3 * PIECE_BYTES + 17)
    await store.objects.put(NAME, pieces(content[:10], content[10:2_000_000], b"", content[2_000_000:]))

    assert await whole(store.objects, 0, len(content)) == content
    assert await whole(store.objects, 5, 6) == content[5:6]
    assert (
        await whole(store.objects, PIECE_BYTES - 1, 2 * PIECE_BYTES + 1)
        == content[PIECE_BYTES - 1 : 2 * PIECE_BYTES + 1]
    )
    assert await whole(store.objects, 7, 7) == b""
    assert store.left() == [NAME]


async def test_an_object_of_several_parts_of_an_upload_is_whole(store: Store) -> None:
    content = os.urandom(13 * PIECE_BYTES + 1)
    await store.objects.put(NAME, pieces(*(content[at : at + 65_536] for at in range(0, len(content), 65_536))))

    assert await whole(store.objects, 0, len(content)) == content


async def test_what_ends_in_an_error_leaves_nothing(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield bytes(PIECE_BYTES)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.objects.put(NAME, broken())

    assert store.left() == []
    with pytest.raises(ObjectMissing):
        await whole(store.objects, 0, 1)


async def test_what_is_cancelled_leaves_nothing(store: Store) -> None:
    has_begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield bytes(PIECE_BYTES)
        has_begun.set()
        await asyncio.sleep(600)

    putting = asyncio.ensure_future(store.objects.put(NAME, endless()))
    await has_begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert store.left() == []


async def test_deleting_is_for_good_and_may_be_repeated(store: Store) -> None:
    await store.objects.put(NAME, pieces(b"content"))
    for _ in range(2):
        await store.objects.delete(NAME)

    assert store.left() == []
    with pytest.raises(ObjectMissing):
        await whole(store.objects, 0, 7)


async def test_a_part_beyond_the_end_is_missing(store: Store) -> None:
    await store.objects.put(NAME, pieces(b"content"))

    with pytest.raises(ObjectMissing):
        await whole(store.objects, 0, 8)


async def test_a_store_that_works_is_found_to_and_left_as_it_was(store: Store) -> None:
    await examine(store.objects)

    assert store.left() == []


async def test_a_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o177)  # as the control process has it
    try:
        await LocalObjects(tmp_path / "files").put(NAME, pieces(b"content"))
    finally:
        os.umask(before)

    found = list((tmp_path / "files").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "files", *found) if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {0o600}


async def test_a_crash_while_writing_leaves_what_its_name_deletes(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / NAME).write_bytes(b"half of")

    await LocalObjects(tmp_path).delete(NAME)

    assert files_of(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_told_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no folder")

    with pytest.raises(StoreUnavailable) as caught:
        await LocalObjects(tmp_path / "files").put(NAME, pieces(b"content"))

    assert str(tmp_path) not in str(caught.value)


async def test_a_service_that_is_away_is_told_without_its_words() -> None:
    nowhere = S3Settings(
        bucket="b", endpoint="http://127.0.0.1:9", region="auto", access_key_id="id", secret_access_key="secret"
    )
    objects = S3Objects(nowhere, retries=0)
    async with asyncio.timeout(30):
        for attempt in (objects.put(NAME, pieces(b"content")), whole(objects, 0, 1), objects.delete(NAME)):
            with pytest.raises(StoreUnavailable) as caught:
                await attempt
            assert "127.0.0.1" not in str(caught.value)
            assert caught.value.__suppress_context__


async def test_a_bucket_that_there_is_not_takes_nothing_and_erases_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as bucket:
        objects = S3Objects(replace(bucket.settings, bucket="another"))
        for attempt in (objects.put(NAME, pieces(b"content")), objects.delete(NAME)):
            with pytest.raises(StoreUnavailable):
                await attempt
