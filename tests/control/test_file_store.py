"""Files as workers use them: inputs for providers, keys that rotate, damage that is told, a store that is away."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import psycopg
import pytest

from tests.control.plane import Plane
from tests.control.uploads import FROM, announce, kept, path_of, picture, upload
from tests.stores.bucket import serving
from tests.upstream.test_guarded_session import session
from waypost.app.secrets import add_file_key
from waypost.control.file_fetch import Outputs
from waypost.control.file_store import Delivery
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.storage.file_sweep import Limits, erase_files_of, set_limits
from waypost.storage.files import show_outputs_on

PUBLIC = '[server]\npublic_url = "https://ai.example.org"\n'


async def test_an_input_reaches_its_provider_by_url_inside_the_request_or_as_bytes(
    database: str, tmp_path: Path
) -> None:
    content = picture(100_000)
    async with Plane(database, tmp_path, config=PUBLIC) as plane:
        file_id = ids.parse("file", (await upload(plane, content))["id"])

        url = await plane.files.deliver(plane.org_id, file_id, Delivery.URL)
        until_s = plane.clock.unix_ns() // 1_000_000_000 + 3_600
        long_url = await plane.files.deliver(plane.org_id, file_id, Delivery.URL, until_s=until_s)
        inline = await plane.files.deliver(plane.org_id, file_id, Delivery.BASE64)
        whole = await plane.files.read_input(plane.org_id, file_id)
        opened = await plane.files.open_input(plane.org_id, file_id)

        assert url.startswith(f"https://ai.example.org/v1/inputs/{ids.text('file', file_id)}.png?")
        fetched = await plane.ask("GET", path_of(url), key="")
        assert (fetched.body, fetched.headers["content-type"]) == (content, "image/png")
        assert inline == f"data:image/png;base64,{base64.b64encode(content).decode()}"
        assert whole == (content, "image/png")
        assert b"".join([part async for part in opened.parts]) == content
        plane.clock.step_s(16 * 60)
        assert (await plane.ask("GET", path_of(url), key="")).status == 403
        assert (await plane.ask("GET", path_of(long_url), key="")).status == 200
        plane.clock.step_s(45 * 60)
        assert (await plane.ask("GET", path_of(long_url), key="")).status == 403


async def test_an_input_url_is_good_for_that_and_under_its_own_name_only(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path, config=PUBLIC) as plane:
        file_id = ids.parse("file", (await upload(plane, picture()))["id"])
        url = await plane.files.deliver(plane.org_id, file_id, Delivery.URL)
        target = path_of(url)

        assert (await plane.ask("GET", target.replace(".png", ".html"), key="")).status == 404
        other = target.replace("/inputs/", "/files/").replace(".png", "/content")
        assert (await plane.ask("GET", other, key="")).status == 403
        assert (await plane.ask("PUT", other, picture(), key="")).status == 403


async def test_without_a_public_url_inputs_go_inside_the_request_up_to_a_size(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        file_id = ids.parse("file", (await upload(plane, picture(2000)))["id"])

        inline = await plane.files.deliver(plane.org_id, file_id, Delivery.URL)
        assert inline.startswith("data:image/png;base64,")
        with pytest.raises(Refusal) as caught:
            await plane.files.deliver(plane.org_id, file_id, Delivery.BASE64, inline_bytes_max=1999)
        assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE


async def test_a_file_that_is_not_the_organisations_or_not_there_is_no_input(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        other = await plane.make_key(await plane.operator.create_org("other", is_unlimited=False))
        foreign = ids.parse("file", (await upload(plane, picture(), key=other.text))["id"])
        pending = ids.parse("file", (await announce(plane))["file_id"])
        own = ids.parse("file", (await upload(plane, picture()))["id"])

        for file_id in (foreign, pending, plane.ids.new()):
            with pytest.raises(Refusal) as caught:
                await plane.files.open_input(plane.org_id, file_id)
            assert caught.value.code is ErrorCode.FILE_NOT_FOUND
            assert list(await plane.files.sizes(plane.org_id, [own, file_id])) == [own]


async def test_after_a_rotation_the_old_file_key_opens_nothing_that_is_needed(database: str, tmp_path: Path) -> None:
    content = picture(90_000)
    async with Plane(database, tmp_path) as plane:
        before = await upload(plane, content)
        assert add_file_key(plane.settings.secrets_dir) == 2
        between = await upload(plane, content)  # this process does not know of it yet
        await plane.files.sweep()
        after = await upload(plane, content)
        assert await plane.rows("SELECT DISTINCT key_version FROM file") == [(2,)]

        (plane.settings.secrets_dir / "file_key.1").unlink()

        await plane.files.sweep()
        for file in (before, between, after):
            assert (await plane.ask("GET", f"/v1/files/{file['id']}/download")).body == content


async def test_a_damaged_or_missing_object_is_told_to_the_operator_and_never_served(
    database: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with Plane(database, tmp_path) as plane:
        damaged, missing = await upload(plane, picture(90_000)), await upload(plane, picture(90_000))
        rows = await plane.rows("SELECT id, object_id FROM file")
        by_id = {ids.text("file", row[0].bytes): row[1].hex for row in rows}
        paths = {path.name: path for path in kept(plane)}
        sealed = bytearray(paths[by_id[damaged["id"]]].read_bytes())
        sealed[100] ^= 1
        paths[by_id[damaged["id"]]].write_bytes(sealed)
        paths[by_id[missing["id"]]].unlink()

        for file in (damaged, missing):
            answer = await plane.ask("GET", f"/v1/files/{file['id']}/download")
            assert (answer.status, answer.json["error"]["code"]) == (500, "INTERNAL_ERROR")
        events = capfdbinary.readouterr().err
        assert events.count(b'"event":"FileUnreadable"') == 2
        assert b"Tampered" in events
        assert b"ObjectMissing" in events


async def test_two_objects_of_one_organisation_cannot_be_exchanged(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        one, two = await upload(plane, picture(500, filler=b"1")), await upload(plane, picture(500, filler=b"2"))
        first, second = kept(plane)
        swapped = (second.read_bytes(), first.read_bytes())
        first.write_bytes(swapped[0])
        second.write_bytes(swapped[1])

        for file in (one, two):
            assert (await plane.ask("GET", f"/v1/files/{file['id']}/download")).status == 500


async def test_erasing_an_organisation_takes_its_files_and_nobody_elses(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        other = await plane.make_key(await plane.operator.create_org("other", is_unlimited=False))
        await upload(plane, picture())
        await announce(plane)
        left = await upload(plane, picture(), key=other.text)

        assert await erase_files_of(plane.pool, plane.org_id, plane.files.now()) == 2
        await plane.files.sweep()

        assert (await plane.ask("GET", "/v1/files")).json["data"] == []
        assert len(kept(plane)) == 1
        assert await plane.rows("SELECT count(*) FROM file_audit WHERE org_id = %s", plane.org_id.hex()) == [(0,)]
        assert (await plane.ask("GET", f"/v1/files/{left['id']}/download", key=other.text)).status == 200


async def test_erasing_leaves_the_limits_and_what_is_held_for_an_execution(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane, session() as guarded:
        await upload(plane, picture())
        execution_id = plane.ids.new()
        outputs = Outputs(plane.files, guarded, plane.ids)
        await outputs.rehost(org_id=plane.org_id, execution_id=execution_id, output_index=0, source=picture(300))
        await set_limits(plane.pool, plane.org_id, ttl_days=1, bytes_max=1_000_000)

        assert await erase_files_of(plane.pool, plane.org_id, plane.files.now()) == 1

        limits = await set_limits(plane.pool, plane.org_id, ttl_days=None, bytes_max=None)
        assert limits == Limits(bytes=300, bytes_max=1_000_000, ttl_days=1)
        async with plane.books.connection() as connection, connection.transaction():
            await show_outputs_on(connection, execution_id)
        (shown,) = (await plane.ask("GET", "/v1/files")).json["data"]
        assert len((await plane.ask("GET", f"/v1/files/{shown['id']}/download")).body) == 300
        assert await erase_files_of(plane.pool, plane.org_id, plane.files.now()) == 1
        assert (await set_limits(plane.pool, plane.org_id, ttl_days=None, bytes_max=None)).bytes == 0


async def test_erasing_while_the_first_file_is_being_filled_counts_none_of_its_bytes(
    database: str, tmp_path: Path
) -> None:
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def wait_for(waiting: int) -> None:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as watch, asyncio.timeout(20):
            while (await watch.execute(query)).rowcount != waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with Plane(database, tmp_path) as plane:
        made = await announce(plane)
        async with await psycopg.AsyncConnection.connect(database) as owner:
            await owner.execute("SELECT FROM org WHERE id = %s FOR UPDATE", (plane.org_id.hex(),))
            target = path_of(made["upload_url"])
            filling = asyncio.ensure_future(plane.ask("PUT", target, picture(), key="", headers=FROM))
            await wait_for(1)  # its row is filled, and the room for it is being taken
            erasing = asyncio.ensure_future(erase_files_of(plane.pool, plane.org_id, plane.files.now()))
            await wait_for(2)
        assert (await filling).status == 200
        assert await erasing == 1
        assert (await set_limits(plane.pool, plane.org_id, ttl_days=None, bytes_max=None)).bytes == 0


async def test_files_in_a_bucket_are_taken_in_given_out_and_erased(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(7_000_000, filler=b"0123456789abcdef")[:7_000_000]
    monkeypatch.setenv("FILES_ID", "id")
    (tmp_path / "secret").write_text("secret\n")
    with serving(tmp_path / "buckets") as bucket:
        config = (
            f'[files]\nstore = "s3"\nbucket = "{bucket.settings.bucket}"\nendpoint = "{bucket.settings.endpoint}"\n'
            'access_key_id = "env:FILES_ID"\nsecret_access_key = "file:secret"\n'
        )
        async with Plane(database, tmp_path, config=config) as plane:
            file = await upload(plane, content)
            whole = await plane.ask("GET", f"/v1/files/{file['id']}/download")
            part = await plane.ask("GET", f"/v1/files/{file['id']}/download", headers={"range": "bytes=6999990-"})
            assert (whole.body == content, part.body) == (True, content[-10:])
            assert len(bucket.objects()) == 1
            assert b"0123456789abcdef" not in bucket.objects()[0].read_bytes()
            assert not (plane.settings.data_dir / "files").exists()

            await plane.ask("DELETE", f"/v1/files/{file['id']}")
            await plane.files.sweep()
            assert bucket.objects() == []


async def test_while_the_store_is_away_uploads_wait_and_erasures_too(
    database: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture())
        waiting = await announce(plane)
        folder = plane.settings.data_dir / "files"
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("no folder")

        refused = await plane.ask("PUT", path_of(waiting["upload_url"]), picture(), key="")
        assert (refused.status, refused.json["error"]["retryable"]) == (503, True)
        await plane.ask("DELETE", f"/v1/files/{file['id']}")
        await plane.files.sweep()
        assert b'"event":"FilesNotErased"' in capfdbinary.readouterr().err

        folder.unlink()
        folder.with_name("elsewhere").rename(folder)
        await plane.files.sweep()
        assert kept(plane) == []
        assert (await plane.ask("PUT", path_of(waiting["upload_url"]), picture(), key="")).status == 200
