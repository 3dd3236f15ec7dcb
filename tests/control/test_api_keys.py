"""Keys by HTTP, as ModelRoute's contract has them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.control.plane import API_KEYS_MAX, Plane
from waypost.app.operator import NewKey
from waypost.kit import ids
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope, is_well_formed
from waypost.tenancy.budget import Budget, Period


async def test_a_key_is_made_listed_rotated_and_revoked(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        made = await plane.ask("POST", "/v1/api-keys", {"name": "reports", "scope": "full"})
        assert made.status == 201
        assert is_well_formed(made.json["key"].encode())
        await plane.follow()

        listed = await plane.ask("GET", "/v1/api-keys", key=made.json["key"])
        assert [row["name"] for row in listed.json["data"]] == ["tests", "reports"]
        assert listed.json["next_cursor"] is None
        assert made.json["key"].encode() not in listed.body

        rotated = await plane.ask("POST", f"/v1/api-keys/{made.json['id']}/rotate")
        assert rotated.json["id"] == made.json["id"]
        assert rotated.json["previous_key_valid_until"].endswith("Z")
        await plane.follow()
        for text in (made.json["key"], rotated.json["new_key"]):
            assert (await plane.ask("GET", "/v1/api-keys", key=text)).status == 200, "both are valid for an hour"

        assert (await plane.ask("DELETE", f"/v1/api-keys/{made.json['id']}")).status == 204
        await plane.follow()
        for text in (made.json["key"], rotated.json["new_key"]):
            assert (await plane.ask("GET", "/v1/api-keys", key=text)).status == 401
        assert [row["name"] for row in (await plane.ask("GET", "/v1/api-keys")).json["data"]] == ["tests"]


async def test_a_key_that_may_only_call_models_manages_none(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        own = f"/v1/api-keys/{(await plane.ask('GET', '/v1/api-keys')).json['data'][0]['id']}"

        for method, target in (("POST", "/v1/api-keys"), ("GET", "/v1/api-keys"), ("DELETE", own)):
            answer = await plane.ask(method, target, {} if method == "POST" else None, key=weak.text)
            assert (answer.status, answer.json["error"]["code"]) == (403, "PERMISSION_DENIED")


async def test_another_organisations_key_is_as_unknown_as_one_that_never_was(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        other = await plane.operator.create_org("other", is_unlimited=False)
        await plane.make_key(other)
        foreign = ids.text("key", (await plane.operator.list_keys(other))[0].id)
        unknown = "key_00000000-0000-7000-8000-000000000000"

        for method, tail in (("DELETE", ""), ("POST", "/rotate")):
            answers = [await plane.ask(method, f"/v1/api-keys/{key}{tail}") for key in (foreign, unknown, "key_x")]
            masked = {(each.status, each.json["error"]["code"], len(each.body)) for each in answers}
            assert masked == {(404, "NOT_FOUND", len(answers[0].body))}
        assert (await plane.operator.list_keys(other))[0].valid_until is None


async def test_an_organisation_has_so_many_keys_and_no_more_however_many_ask_at_once(
    database: str, tmp_path: Path
) -> None:
    async with Plane(database, tmp_path) as plane:
        answers = await asyncio.gather(*(plane.ask("POST", "/v1/api-keys", {"name": str(at)}) for at in range(8)))

        assert sorted(each.status for each in answers) == [201] * (API_KEYS_MAX - 1) + [409] * (9 - API_KEYS_MAX)
        refused = next(each for each in answers if each.status == 409)
        assert "Revoke one first" in refused.json["error"]["message"]


async def test_a_key_gives_no_more_than_it_has(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        minter = await plane.make_key(plane.org_id, limits=Limits(60, None, frozenset(("swift-1", "swift-2"))))

        made = await plane.ask("POST", "/v1/api-keys", {"requests_per_minute": 600}, key=minter.text)
        wider = await plane.ask("POST", "/v1/api-keys", {"models": ["swift-3"]}, key=minter.text)

        assert (made.json["requests_per_minute"], made.json["models"]) == (60, ["swift-1", "swift-2"])
        assert (wider.status, wider.json["error"]["details"][0]["field"]) == (400, "models")


async def test_a_key_with_a_budget_of_its_own_rotates_only_itself(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        bounded = await plane.make_key(plane.org_id, budget=Budget(1_000, Period.LIFETIME))

        assert await _rotation(plane, plane.key, by=bounded) == 403, "that one has no budget"
        assert await _rotation(plane, bounded, by=bounded) == 200


async def test_a_key_rotates_none_that_may_do_more_than_itself(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        project_id = await plane.operator.create_project(plane.org_id, name="reports", budget=None)
        two = frozenset(("swift-1", "swift-2"))

        async def key(limits: Limits, project_id: bytes | None = None) -> NewKey:
            return await plane.make_key(plane.org_id, limits=limits, project_id=project_id)

        bounded = await key(Limits(60, 1000, two, 4))
        for wider in (Limits(61, 1000, two, 4), Limits(60, None, two, 4), Limits(60, 1000, None, 4)):
            assert await _rotation(plane, await key(wider), by=bounded) == 403
        for wider in (Limits(60, 1000, two | {"swift-3"}, 4), Limits(60, 1000, two, 5), Limits(60, 1000, two)):
            assert await _rotation(plane, await key(wider), by=bounded) == 403
        assert await _rotation(plane, await key(Limits(60, 999, frozenset(("swift-1",)), 3)), by=bounded) == 200
        assert await _rotation(plane, bounded, by=bounded) == 200

        of_project = await key(Limits(), project_id)
        assert await _rotation(plane, plane.key, by=of_project) == 403
        assert await _rotation(plane, await key(Limits(), project_id), by=of_project) == 200
        assert await _rotation(plane, of_project, by=plane.key) == 200


async def _rotation(plane: Plane, rotated: NewKey, *, by: NewKey) -> int:
    """The answer's status. A refused one changes nothing: no text of the key ends."""
    answer = await plane.ask("POST", f"/v1/api-keys/{ids.text('key', rotated.id)}/rotate", key=by.text)
    if answer.status != 200:
        assert answer.json["error"]["code"] == "PERMISSION_DENIED"
        assert rotated.text.encode() not in answer.body
        ends = await plane.rows("SELECT valid_until FROM api_key_digest WHERE api_key_id = %s", UUID(bytes=rotated.id))
        assert ends == [(None,)]
    return answer.status


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"scope": "root"}, 400, ("scope", "INVALID_VALUE")),
        ({"requests_per_minute": 0}, 400, ("requests_per_minute", "OUT_OF_RANGE")),
        ({"models": []}, 400, ("models", "OUT_OF_RANGE")),
        ({"surprise": 1}, 400, ("surprise", "UNKNOWN_FIELD")),
        (b"[", 400, None),
        (b"x" * 1_100_000, 413, None),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(
    database: str, tmp_path: Path, body: Any, status: int, field: tuple[str, str] | None
) -> None:
    async with Plane(database, tmp_path) as plane:
        answer = await plane.ask("POST", "/v1/api-keys", body)

        assert answer.status == status, answer.body
        assert answer.json["error"]["retryable"] is False
        details = answer.json["error"].get("details", [])
        assert [(each["field"], each["code"]) for each in details] == ([] if field is None else [field])
        assert len((await plane.ask("GET", "/v1/api-keys")).json["data"]) == 1


@pytest.mark.parametrize(
    "path",
    ["/v1/api-keys", "/v1/executions", "/v1/files", "/v1/usage", "/v1/webhooks/endpoints", "/v1/webhooks/deliveries"],
)
async def test_a_list_refuses_parameters_that_it_does_not_know(database: str, tmp_path: Path, path: str) -> None:
    async with Plane(database, tmp_path) as plane:
        unknown = await plane.ask("GET", f"{path}?state=FAILED")
        odd = await plane.ask("GET", f"{path}?%3Cb%3E=1")

        for answer, field in ((unknown, "state"), (odd, "…")):
            (detail,) = answer.json["error"]["details"]
            assert (answer.status, detail["field"], detail["code"]) == (400, field, "UNKNOWN_FIELD")
        assert (await plane.ask("GET", path)).status == 200


async def test_a_parameter_that_stands_twice_is_refused(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        answer = await plane.ask("GET", "/v1/executions?status=FAILED&status=EXPIRED")

        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (400, "status")


async def test_what_is_not_there_is_told_in_the_canonical_envelope(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        nothing = await plane.ask("GET", "/v1/nothing")
        wrong_method = await plane.ask("PUT", "/v1/api-keys")
        nobody = await plane.ask("GET", "/v1/api-keys", key="sk_x")

        assert (nothing.status, nothing.json["error"]["code"]) == (404, "NOT_FOUND")
        assert (wrong_method.status, wrong_method.json["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert (nobody.status, nobody.json["error"]["code"]) == (401, "UNAUTHENTICATED")
