"""Webhook endpoints and deliveries by HTTP, as ModelRoute's contract has them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.control.plane import Answer, Plane
from tests.storage.asynchronous import received
from tests.storage.asynchronous import running as run
from tests.worker.receivers import receivers, running, until
from waypost.kit import ids
from waypost.kit.values import replace
from waypost.storage.asynchronous_executions import Executions
from waypost.tenancy.api_key import Scope

URL = "https://hooks.example.com/waypost"
PATH = "/v1/webhooks/endpoints"
ENDPOINTS_MAX = 3
CONFIG = f"[webhooks]\nendpoints_max = {ENDPOINTS_MAX}\n[egress]\nallow = {{}}"


@asynccontextmanager
async def plane_with(database: str, directory: Path, *, allow: tuple[str, ...] = ()) -> AsyncIterator[Plane]:
    async with Plane(database, directory, config=CONFIG.format(list(allow))) as plane:
        await plane.operator.add_credit(plane.org_id, 1_000_000_000, "credit")
        yield plane


async def made(plane: Plane, **fields: object) -> Any:
    answer = await plane.ask("POST", PATH, {"url": URL} | fields)
    assert answer.status == 201, answer.body
    return answer.json


async def started(plane: Plane, webhook_url: str | None = None) -> str:
    """An execution that has begun, and is announced."""
    executions = Executions(plane.books, plane.ids, plane.webhooks.announcer)
    first, _ = await executions.create(received(plane.org_id, webhook_url=webhook_url, hold_nanos=1_000))
    assert await executions.step(first, run(first)) is not None
    return ids.text("exec", first.id)


async def test_an_endpoint_is_made_listed_changed_and_deleted(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(
            plane,
            description="orders",
            events=["execution.completed", "execution.failed", "execution.failed"],
            headers={"Authorization": "Bearer hidden-canary"},
        )
        assert endpoint["id"].startswith("wh_")
        assert endpoint["secret"].startswith("whsec_")
        assert (endpoint["is_active"], endpoint["status"]) == (True, "active")
        assert endpoint["events"] == ["execution.completed", "execution.failed"]
        assert endpoint["headers"] == ["authorization"]
        assert endpoint["created_at"].endswith("Z")

        listed = await plane.ask("GET", PATH)
        (row,) = listed.json["endpoints"]
        assert listed.json["data"] == [row]
        assert (row["url"], row["failure_count"], row["last_success"], row["notice"]) == (URL, 0, None, None)
        one = f"{PATH}/{endpoint['id']}"
        assert (await plane.ask("GET", one)).json == row
        for answer in (listed, await plane.ask("GET", one)):
            assert b"whsec_" not in answer.body, "shown once"
            assert b"hidden-canary" not in answer.body

        changed = await plane.ask("PATCH", one, {"status": "inactive", "events": [], "headers": {}, "url": URL + "/2"})
        assert (changed.json["is_active"], changed.json["status"]) == (False, "inactive")
        assert (changed.json["events"], changed.json["headers"], changed.json["url"]) == ([], [], URL + "/2")
        assert changed.json["description"] == "orders", "what is left out stays"
        assert (await plane.ask("PATCH", one, {"is_active": True})).json["status"] == "active"

        assert (await plane.ask("DELETE", one)).status == 204
        assert (await plane.ask("GET", PATH)).json["endpoints"] == []
        for method in ("GET", "DELETE"):
            assert (await plane.ask(method, one)).status == 404


async def test_no_secret_stands_readable_in_the_database(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane, headers={"x-token": "hidden-canary"})
        own = (await plane.ask("GET", "/v1/webhooks/secret")).json["secret"]
        rows = await plane.rows(
            "SELECT secret, headers FROM webhook_endpoint UNION ALL SELECT secret, NULL FROM webhook_secret"
        )
        stored = b"".join(bytes(each) for row in rows for each in row if each is not None)
        for canary in (endpoint["secret"], own, "hidden-canary"):
            assert canary.encode() not in stored


async def test_urls_are_sealed_in_every_row_and_shown_to_their_owner(database: str, tmp_path: Path) -> None:
    url, own = f"{URL}/token-canary", "https://own.example.com/token-canary?key=token-canary"
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane, url=url)
        one = f"{PATH}/{endpoint['id']}"
        assert (await plane.ask("PATCH", one, {"url": f"{url}/2"})).json["url"] == f"{url}/2"
        assert (await plane.ask("GET", PATH)).json["data"][0]["url"] == f"{url}/2"
        sealed = plane.webhooks.services.sealed.seal_url(plane.org_id, own)
        await started(plane, sealed)
        for table in ("webhook_endpoint", "webhook_delivery", "asynchronous_execution"):
            rows = str(await plane.rows(f"SELECT to_jsonb(t)::text FROM {table} t"))
            assert "sealed:" in rows
            assert "canary" not in rows
            assert "example.com" not in rows


async def test_a_row_that_was_read_before_it_was_sealed_is_announced_sealed(database: str, tmp_path: Path) -> None:
    own = "https://own.example.com/token-canary"
    async with plane_with(database, tmp_path) as plane:
        executions = Executions(plane.books, plane.ids, plane.webhooks.announcer)
        first, _ = await executions.create(received(plane.org_id, webhook_url=own, hold_nanos=1_000))
        await plane.webhooks.seal_plain_urls(plane.books)

        assert await executions.step(first, run(first)) is not None

        for table in ("webhook_delivery", "asynchronous_execution"):
            rows = str(await plane.rows(f"SELECT to_jsonb(t)::text FROM {table} t"))
            assert "sealed:" in rows
            assert "canary" not in rows


async def test_what_stood_readable_is_sealed_and_still_sent(database: str, tmp_path: Path) -> None:
    async with receivers() as there, plane_with(database, tmp_path, allow=("127.0.0.1",)) as plane:
        endpoint = await made(plane, url=there.url("/ok/1"))
        await started(plane, there.url("/ok/own"))  # as it was written before
        async with plane.pool.system() as connection:
            await connection.execute("UPDATE webhook_endpoint SET url = %s", (there.url("/ok/1"),))
            own = (there.url("/ok/own"),)
            await connection.execute("UPDATE webhook_delivery SET url = %s WHERE endpoint_id IS NULL", own)
        assert (await plane.ask("GET", f"{PATH}/{endpoint['id']}")).json["url"] == there.url("/ok/1")

        await plane.webhooks.seal_plain_urls(plane.books)
        for table in ("webhook_endpoint", "webhook_delivery", "asynchronous_execution"):
            rows = str(await plane.rows(f"SELECT to_jsonb(t)::text FROM {table} t"))
            assert "sealed:" in rows
            assert "/ok/" not in rows
        async with running(plane.webhooks.worker):
            await until(lambda: {each.path for each in there.arrivals} == {"/ok/1", "/ok/own"})
        assert (await plane.ask("GET", f"{PATH}/{endpoint['id']}")).json["url"] == there.url("/ok/1")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://metadata.google.internal/"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"events": ["execution.paused"]}, "events[0]"),
        ({"events": "execution.completed"}, "events"),
        ({"headers": {"Host": "x"}}, "headers.host"),
        ({"headers": {"x-a": "b\r\nc: d"}}, "headers.x-a"),
        ({"headers": {"x a": "b"}}, "headers"),
        ({"headers": {"x-a": 1}}, "headers[...]"),
        ({"description": "x" * 501}, "description"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(
    database: str, tmp_path: Path, fields: dict[str, object], field: str
) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane)
        refused = [await plane.ask("POST", PATH, {"url": URL} | fields)]
        if fields.get("url", "") is not None and fields.get("url") != "":
            refused.append(await plane.ask("PATCH", f"{PATH}/{endpoint['id']}", fields))
        for answer in refused:
            assert answer.status == 400, answer.body
            assert answer.json["error"]["details"][0]["field"] == field
        assert len((await plane.ask("GET", PATH)).json["data"]) == 1


async def test_status_and_is_active_may_not_contradict_each_other(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        one = f"{PATH}/{(await made(plane))['id']}"
        answer = await plane.ask("PATCH", one, {"status": "active", "is_active": False})
        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (400, "status")


async def test_an_allowed_host_may_be_called_without_tls(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path, allow=("hooks.lan:8080",)) as plane:
        assert (await made(plane, url="http://hooks.lan:8080/x"))["url"] == "http://hooks.lan:8080/x"
        assert (await plane.ask("POST", PATH, {"url": "http://hooks.lan:8081/x"})).status == 400


async def test_an_organisation_has_so_many_endpoints_however_many_ask_at_once(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        answers = await asyncio.gather(*(plane.ask("POST", PATH, {"url": URL}) for _ in range(ENDPOINTS_MAX + 3)))
        assert sorted(each.status for each in answers) == [201] * ENDPOINTS_MAX + [409] * 3
        refused = next(each for each in answers if each.status == 409)
        assert "Delete one first" in refused.json["error"]["message"]


TARGETS = (
    *(("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/{{}}"), ("PATCH", f"{PATH}/{{}}"), ("DELETE", f"{PATH}/{{}}")),
    *(("POST", f"{PATH}/{{}}/{action}") for action in ("test", "rotate-secret", "replay")),
    *(("GET", "/v1/webhooks/secret"), ("POST", "/v1/webhooks/secret/rotate"), ("GET", "/v1/webhooks/deliveries")),
)


async def test_a_key_that_may_only_run_executions_touches_no_webhook(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane)
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        delivery = ids.text("whd", plane.ids.new())
        for method, target in (*TARGETS, ("POST", f"/v1/webhooks/deliveries/{delivery}/redeliver")):
            body: Any = {} if method in ("POST", "PATCH") else None
            answer = await plane.ask(method, target.format(endpoint["id"]), body, key=weak.text)
            assert (answer.status, answer.json["error"]["code"]) == (403, "PERMISSION_DENIED"), target
        assert len((await plane.ask("GET", PATH)).json["data"]) == 1


async def test_another_organisations_endpoint_is_as_unknown_as_one_that_never_was(
    database: str, tmp_path: Path
) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane)
        other = await plane.make_key(await plane.operator.create_org("other", is_unlimited=True))
        unknown = ids.text("wh", plane.ids.new())
        for method, target in TARGETS:
            if "{}" not in target:
                continue
            body: Any = {} if method in ("POST", "PATCH") else None

            async def ask(name: str, method: str = method, target: str = target, body: Any = body) -> Answer:
                return await plane.ask(method, target.format(name), body, key=other.text)

            answers = [await ask(name) for name in (endpoint["id"], unknown, "wh_x", "exec_1")]
            assert {(each.status, each.json["error"]["code"], len(each.body)) for each in answers} == {
                (404, "NOT_FOUND", len(answers[0].body))
            }
        assert (await plane.ask("GET", PATH, key=other.text)).json["data"] == []
        assert (await plane.ask("GET", PATH)).json["data"][0]["is_active"] is True


async def test_a_rotated_secret_is_shown_once_and_the_old_one_counts_for_a_day(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        endpoint = await made(plane)
        one = f"{PATH}/{endpoint['id']}"
        rotated = (await plane.ask("POST", f"{one}/rotate-secret")).json
        assert rotated["secret"] not in ("", endpoint["secret"])
        assert (await plane.ask("GET", one)).json["previous_secret_valid_until"] == rotated[
            "previous_secret_valid_until"
        ]
        at_once = (await plane.ask("POST", f"{one}/rotate-secret", {"overlap_s": 0})).json
        assert at_once["previous_secret_valid_until"] is None
        assert (await plane.ask("POST", f"{one}/rotate-secret", {"overlap_s": 86_401})).status == 400


async def test_the_organisations_own_secret_is_shown_to_who_asks(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        first = (await plane.ask("GET", "/v1/webhooks/secret")).json
        assert (await plane.ask("GET", "/v1/webhooks/secret")).json == first
        rotated = (await plane.ask("POST", "/v1/webhooks/secret/rotate")).json
        assert (await plane.ask("GET", "/v1/webhooks/secret")).json == rotated
        assert rotated["secret"] != first["secret"]
        assert rotated["previous_secret_valid_until"].endswith("Z")


async def test_a_test_tells_how_it_went(database: str, tmp_path: Path) -> None:
    async with receivers() as there, plane_with(database, tmp_path, allow=("127.0.0.1",)) as plane:
        good, bad = await made(plane, url=there.url("/ok/1")), await made(plane, url=there.url("/fails/1"))
        told = (await plane.ask("POST", f"{PATH}/{good['id']}/test")).json
        assert (told["success"], told["status_code"], told["error"]) == (True, 204, None)
        Webhook(good["secret"]).verify(there.arrivals[0].body, there.arrivals[0].headers)
        told = (await plane.ask("POST", f"{PATH}/{bad['id']}/test")).json
        assert (told["success"], told["status_code"], told["error"]) == (False, 500, "http_500")
        found = (await plane.ask("GET", f"/v1/webhooks/deliveries/{told['id']}")).json
        assert (found["type"], found["status"], found["attempts"]) == ("webhook.test", "dead", 1)
        assert (await plane.ask("GET", f"{PATH}/{bad['id']}")).json["dead_letters"] == 0, "of executions' events"
        there.heals = True
        redeliver = f"/v1/webhooks/deliveries/{told['id']}/redeliver"
        async with running(plane.webhooks.worker):
            assert (await plane.ask("POST", redeliver)).status == 202
            await until(lambda: len(there.of("/fails/1")) == 2)
        await plane.ask("DELETE", f"{PATH}/{bad['id']}")
        again = await plane.ask("POST", redeliver)
        assert (again.status, again.json["error"]["code"]) == (409, "CONFLICT")
        assert "deleted" in again.json["error"]["message"]


@pytest.mark.parametrize("remedy", ["test", "edit", "replay"])
async def test_a_receiver_that_is_said_to_be_well_is_served_at_once(
    database: str, tmp_path: Path, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.webhooks.lane.REST_S", (3_600.0,) * 5)
    async with receivers() as there, plane_with(database, tmp_path, allow=("127.0.0.1",)) as plane:
        endpoint = await made(plane, url=there.url("/fails/1"))
        one = f"{PATH}/{endpoint['id']}"
        async with running(plane.webhooks.worker):
            for _ in range(6):
                await started(plane)
            await until(lambda: len(there.arrivals) == 5)  # now it rests, and the sixth waits
            there.heals = True
            match remedy:
                case "test":
                    assert (await plane.ask("POST", f"{one}/test")).json["success"]
                case "edit":
                    assert (await plane.ask("PATCH", one, {"is_active": True})).json["failure_count"] == 0
                case "replay":
                    assert (await plane.ask("POST", f"{one}/replay")).status == 202
            await until(lambda: len(there.accepted) == (2 if remedy == "test" else 1))


async def test_what_failed_ten_times_is_told_with_what_to_do_and_replayed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.webhooks.lane.REST_S", (0.01,) * 5)
    async with receivers() as there, plane_with(database, tmp_path, allow=("127.0.0.1",)) as plane:
        endpoint = await made(plane, url=there.url("/fails/1"))
        one = f"{PATH}/{endpoint['id']}"

        async def is_deactivated() -> bool:
            return not (await plane.ask("GET", one)).json["is_active"]

        async with running(plane.webhooks.worker):
            for _ in range(10):
                await started(plane)
            await until(is_deactivated)
            found = (await plane.ask("GET", one)).json
            assert (found["failure_count"], found["last_error"], found["dead_letters"]) == (10, "http_500", 10)
            assert found["notice"]["reason"] == "consecutive_failures"
            assert "replay" in found["notice"]["message"]
            assert (await plane.ask("POST", f"{one}/replay")).status == 409

            there.heals = True
            assert (await plane.ask("PATCH", one, {"is_active": True})).json["notice"] is None
            assert (await plane.ask("POST", f"{one}/replay", {"since": "2100-01-01T00:00:00Z"})).json == {"replayed": 0}
            assert (await plane.ask("POST", f"{one}/replay")).json == {"replayed": 10}
            await until(lambda: len(there.accepted) == 10)
        assert (await plane.ask("GET", one)).json["last_success"].endswith("Z")


async def test_deliveries_are_filtered_paged_and_sent_again(database: str, tmp_path: Path) -> None:
    async with receivers() as there, plane_with(database, tmp_path, allow=("127.0.0.1",)) as plane:
        endpoint = await made(plane, url=there.url("/ok/1"))
        first = await started(plane, there.url("/ok/own"))
        await started(plane)
        async with running(plane.webhooks.worker):

            async def listed(query: str) -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await plane.ask("GET", f"/v1/webhooks/deliveries?{query}")).json["data"]
                return found

            async def are_delivered() -> bool:
                return len(await listed("status=delivered")) == 3

            await until(are_delivered)
            of_first = await listed(f"execution_id={first}")
            assert {row["endpoint_id"] for row in of_first} == {endpoint["id"], None}
            assert len({row["event_id"] for row in of_first}) == 1
            assert len(await listed(f"endpoint_id={endpoint['id']}&event=execution.started")) == 2
            assert await listed("status=dead") == await listed("event=execution.failed") == []

            page = (await plane.ask("GET", "/v1/webhooks/deliveries?limit=2")).json
            rest = (await plane.ask("GET", f"/v1/webhooks/deliveries?limit=2&cursor={page['next_cursor']}")).json
            assert len({row["id"] for row in (*page["data"], *rest["data"])}) == 3
            assert rest["next_cursor"] is None

            again = await plane.ask("POST", f"/v1/webhooks/deliveries/{of_first[0]['id']}/redeliver")
            assert (again.status, again.json["status"], again.json["event_id"]) == (
                202,
                "pending",
                of_first[0]["event_id"],
            )
            await until(lambda: len(there.arrivals) == 4)
        assert len({each.event_id for each in there.arrivals}) == 2
        for query in ("status=lost", "event=x", "endpoint_id=wh_1", "execution_id=x", "limit=0", "cursor=x"):
            assert (await plane.ask("GET", f"/v1/webhooks/deliveries?{query}")).status == 400
        assert (await plane.ask("POST", f"/v1/webhooks/deliveries/{endpoint['id']}/redeliver")).status == 404


async def test_other_settings_are_in_force_without_a_restart(database: str, tmp_path: Path) -> None:
    async with plane_with(database, tmp_path) as plane:
        assert (await plane.ask("POST", PATH, {"url": "http://hooks.lan/"})).status == 400
        live = plane.settings.live
        egress = replace(live.egress, allow=("hooks.lan",))
        webhooks = replace(live.webhooks, endpoints_max=ENDPOINTS_MAX + 1)
        plane.webhooks.adopt(replace(live, egress=egress, webhooks=webhooks))
        for _ in range(ENDPOINTS_MAX + 1):
            await made(plane, url="http://hooks.lan/")
