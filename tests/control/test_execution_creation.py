"""`POST /v1/executions`: accepted as ModelRoute's pages say, or refused with nothing kept."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.control.execution_plane import CHAT, CREDIT_NANOS, created, executing, finish, is_untouched, newest, row_of
from tests.control.uploads import picture, upload
from tests.storage.lagging import promote
from waypost.control import execution_acceptance
from waypost.executions.payload_keys import input_key, metadata_key
from waypost.kit import ids
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import build_view
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope
from waypost.tenancy.budget import Budget, Period

FILE = "file_0192f0c4-0000-7000-8000-000000000001"

SEEN = {"type": "image_url", "image_url": {"url": FILE}}


async def test_what_is_refused_while_a_promoted_server_is_told_leaves_no_prompt_behind(
    database: str, tmp_path: Path
) -> None:
    async with executing(database, tmp_path) as plane:
        promote(database)
        refused = [await created(plane, metadata={"order": 1}) for _ in range(2)]
        assert [(answer.status, answer.headers["retry-after"]) for answer in refused] == [(503, "2")] * 2
        assert plane.vault.values == {}


async def test_an_accepted_execution_is_shown_as_modelroute_shows_it(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        answer = await created(plane, "painter-1", {"prompt": "a cat", "n": 2})
        assert answer.status == 202
        shown = answer.json
        assert list(shown) == [
            *("id", "status", "model", "hold_amount", "estimated_cost", "expires_at", "created_at"),
        ]
        assert shown["id"].startswith("exec_")
        assert (shown["status"], shown["model"]) == ("PENDING", "painter-1")
        assert (shown["estimated_cost"], shown["hold_amount"]) == ("0.04", "0.048")
        lasts = datetime.fromisoformat(shown["expires_at"]) - datetime.fromisoformat(shown["created_at"])
        assert lasts.total_seconds() == 300
        assert shown["created_at"].endswith("Z")
        assert answer.headers["location"] == f"/v1/executions/{shown['id']}"
        assert answer.headers["x-execution-id"] == shown["id"]
        balance = (await plane.ask("GET", "/v1/balance")).json
        assert (balance["held_nanos"], balance["available_nanos"]) == ("48000000", str(CREDIT_NANOS - 48_000_000))


async def test_input_and_metadata_are_in_the_vault_and_nowhere_in_the_database(database: str, tmp_path: Path) -> None:
    canary = "canary-7f3a"
    async with executing(database, tmp_path) as plane:
        said = {"messages": [{"role": "user", "content": canary}]}
        answer = await created(plane, body_input=said, metadata={"order": canary}, webhook_url="https://example.org/h")
        raw_id = ids.parse("exec", answer.json["id"])
        assert json.loads(plane.vault.values[input_key(raw_id)][0]) == said
        assert json.loads(plane.vault.values[metadata_key(raw_id)][0]) == {"order": canary}
        assert set(plane.vault.owners.values()) == {plane.org_id}
        assert (await row_of(plane, answer.json["id"])).webhook_url is not None
        for table in ("asynchronous_execution", "procrastinate_jobs", "procrastinate_events", "idempotency_key"):
            rows = await plane.rows(f"SELECT to_jsonb(t)::text FROM {table} t")
            assert canary not in str(rows)
            assert "example.org" not in str(rows)
        shown = (await plane.ask("GET", f"/v1/executions/{answer.json['id']}")).json
        assert shown["metadata"] == {"order": canary}


@pytest.mark.parametrize(
    ("model", "body_input", "deadline_s", "estimate", "hold"),
    [
        ("vectors-1", {"input": "some words"}, 30, "0.000071", "0.01"),
        ("film-1", {"prompt": "waves", "duration": 4}, 3600, "0.40", "0.48"),
        ("film-1", {"prompt": "waves"}, 3600, "1.00", "1.20"),
        ("stage-1", {"scene": "one"}, 3600, "0.00001", "0.01"),
    ],
)
async def test_every_modality_has_its_estimate_and_its_deadline(
    database: str, tmp_path: Path, model: str, body_input: Any, deadline_s: int, estimate: str, hold: str
) -> None:
    async with executing(database, tmp_path) as plane:
        shown = (await created(plane, model, body_input)).json
        lasts = datetime.fromisoformat(shown["expires_at"]) - datetime.fromisoformat(shown["created_at"])
        assert lasts.total_seconds() == deadline_s
        if model != "vectors-1":
            assert shown["estimated_cost"] == estimate
        assert shown["hold_amount"] == hold


REFUSED: list[tuple[Any, list[tuple[str, str]]]] = [
    ({}, [("model", "REQUIRED"), ("input", "REQUIRED")]),
    ({"model": "text-1"}, [("input", "REQUIRED")]),
    ({"model": 7, "input": {}}, [("model", "INVALID_TYPE")]),
    ({"model": "nobody-1", "input": {}}, [("model", "INVALID_VALUE")]),
    ({"model": "text-1", "input": []}, [("input", "INVALID_TYPE")]),
    ({"model": "text-1", "input": {}}, [("input.messages", "REQUIRED")]),
    ({"model": "text-1", "input": {"messages": []}}, [("input.messages", "OUT_OF_RANGE")]),
    ({"model": "text-1", "input": CHAT | {"stream": True}}, [("input.stream", "UNKNOWN_FIELD")]),
    ({"model": "text-1", "input": CHAT | {"model": "x"}}, [("input.model", "UNKNOWN_FIELD")]),
    ({"model": "text-1", "input": CHAT | {"temperature": "hot"}}, [("input.temperature", "INVALID_TYPE")]),
    (
        {"model": "text-1", "input": {"messages": [{"role": "king", "content": 7}]}},
        [("input.messages[0].role", "INVALID_VALUE"), ("input.messages[0].content", "INVALID_TYPE")],
    ),
    ({"model": "text-1", "input": CHAT | {"web_search_options": {}}}, [("input.web_search_options", "INVALID_VALUE")]),
    ({"model": "painter-1", "input": {}}, [("input.prompt", "REQUIRED")]),
    (
        {"model": "painter-1", "input": {"prompt": "x", "width": 5, "height": 99_999}},
        [("input.width", "OUT_OF_RANGE"), ("input.height", "OUT_OF_RANGE")],
    ),
    ({"model": "painter-1", "input": {"prompt": "x", "colour": "red"}}, [("input.colour", "UNKNOWN_FIELD")]),
    ({"model": "painter-1", "input": {"prompt": "x", "n": 11}}, [("input.n", "OUT_OF_RANGE")]),
    (
        {"model": "painter-1", "input": {"prompt": "x", "image": "https://example.org/a.png"}},
        [("input.image", "URL_NOT_ALLOWED")],
    ),
    (
        {"model": "film-1", "input": {"prompt": "x", "source_image": "data:image/png;base64,AA=="}},
        [("input.source_image", "URL_NOT_ALLOWED")],
    ),
    (
        {"model": "film-1", "input": {"prompt": "x", "source_image": "file_1"}},
        [("input.source_image", "INVALID_FORMAT")],
    ),
    (
        {
            "model": "text-1",
            "input": {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "https://stays.text"},
                            {"type": "image_url", "image_url": {"url": "http://example.org/x.png"}},
                        ],
                    }
                ]
            },
        },
        [("input.messages[0].content[1].image_url.url", "URL_NOT_ALLOWED")],
    ),
    ({"model": "stage-1", "input": {"prompt": "x"}}, [("input.scene", "REQUIRED"), ("input.prompt", "UNKNOWN_FIELD")]),
    ({"model": "text-1", "input": CHAT, "callback": "x"}, [("callback", "UNKNOWN_FIELD")]),
    ({"model": "text-1", "input": CHAT, "metadata": "x"}, [("metadata", "INVALID_TYPE")]),
    ({"model": "text-1", "input": CHAT, "metadata": {"x": "y" * 17_000}}, [("metadata", "OUT_OF_RANGE")]),
    ({"model": "text-1", "input": CHAT, "webhook_url": "http://example.org"}, [("webhook_url", "INVALID_FORMAT")]),
    ({"model": "text-1", "input": CHAT, "webhook_url": "https://a:b@example.org"}, [("webhook_url", "INVALID_FORMAT")]),
    ({"model": "text-1", "input": CHAT, "webhook_url": "https://[x"}, [("webhook_url", "INVALID_FORMAT")]),
]


@pytest.mark.slow
async def test_what_is_wrong_is_told_field_by_field_and_nothing_is_kept(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        for body, details in REFUSED:
            answer = await plane.ask("POST", "/v1/executions", body, headers={"idempotency-key": "one"})
            error = answer.json["error"]
            assert (answer.status, error["code"], error["retryable"]) == (400, "INPUT_VALIDATION_ERROR", False), body
            told = [(each["field"], each["code"]) for each in error["details"]]
            assert sorted(told) == sorted(details), body
            assert all(each["message"] for each in error["details"])
            assert error["request_id"].startswith("req_")
        twice = await plane.ask(
            "POST", "/v1/executions", b'{"model":"text-1","model":"text-1","input":{"messages":[]}}'
        )
        assert (twice.status, twice.json["error"]["details"][0]["field"]) == (400, "model")
        for raw in (b"", b"{", b"7", b'"x"', b"null", b"[]", b'{"a":' * 99 + b"1" + b"}" * 99):
            answer = await plane.ask("POST", "/v1/executions", raw)
            assert (answer.status, answer.json["error"]["code"]) == (400, "INPUT_VALIDATION_ERROR"), raw
        wrong_type = await plane.ask("POST", "/v1/executions", b"x", headers={"content-type": "text/plain"})
        assert wrong_type.status == 415
        too_long = await plane.ask("POST", "/v1/executions", b" " * (16 * 1024 * 1024 + 1))
        assert too_long.status == 413
        assert await is_untouched(plane)


async def test_a_refusal_never_quotes_what_was_sent(database: str, tmp_path: Path) -> None:
    canary = "canary-91c2"
    async with executing(database, tmp_path) as plane:
        for body_input in (
            {"prompt": canary, "width": canary, "size": canary, canary + " \u2028": 1},
            {"prompt": [canary], "image": canary, "n": canary},
        ):
            answer = await created(plane, "painter-1", body_input)
            assert answer.status == 400
            assert canary not in answer.body.decode().replace(f"{canary}\\u", "")


async def test_files_are_named_by_id_and_those_that_are_not_there_are_all_the_same(
    database: str, tmp_path: Path
) -> None:
    async with executing(database, tmp_path) as plane:
        body_input = {"prompt": "as this", "image": FILE}
        refused = await created(plane, "painter-1", body_input)
        assert (refused.status, refused.json["error"]["code"]) == (400, "FILE_NOT_FOUND")
        assert "details" not in refused.json["error"]
        assert "'input.image'" in refused.json["error"]["message"]
        assert await is_untouched(plane)
        file_id = (await upload(plane, picture()))["id"]
        body_input["image"] = file_id
        for model, sound in (
            ("painter-1", body_input),
            ("painter-1", {"prompt": "x", "images": [file_id, file_id]}),
            ("stage-1", {"scene": "x", "source": file_id}),
            (
                "text-1",
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": file_id}}]}]},
            ),
        ):
            assert (await created(plane, model, sound)).status == 202


async def test_a_file_that_no_deployment_could_be_given_is_refused_at_acceptance(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        large, small = [(await upload(plane, picture(size)))["id"] for size in (10 * 1024 * 1024 + 1, 9 << 20)]
        refused = await created(plane, "painter-1", {"prompt": "x", "images": [small, large]})
        assert (refused.status, refused.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert "'input.images[1]'" in refused.json["error"]["message"]
        assert "10,485,760" in refused.json["error"]["message"]
        others = [(await upload(plane, picture((9 << 20) + each)))["id"] for each in range(1, 5)]
        together = await created(plane, "painter-1", {"prompt": "x", "images": [small, *others]})
        assert (together.status, "together" in together.json["error"]["message"]) == (413, True)
        assert await is_untouched(plane)
        assert (await created(plane, "painter-1", {"prompt": "x", "images": [small]})).status == 202


async def test_without_money_it_is_refused_at_once_and_nothing_is_kept(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        answer = await created(
            plane, "film-1", {"prompt": "x", "duration": 60, "n": 4}, headers={"idempotency-key": "one"}
        )
        error = answer.json["error"]
        assert (answer.status, error["code"], error["retryable"]) == (402, "INSUFFICIENT_BALANCE", False)
        assert await is_untouched(plane)


async def test_a_budget_that_is_used_up_is_named_and_renews(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        tight = await plane.make_key(plane.org_id, budget=Budget(15_000_000, Period.DAY))
        first = await created(plane, key=tight.text)
        refused = await created(plane, key=tight.text)
        assert (first.status, refused.status) == (202, 402)
        assert "daily budget of this API key" in refused.json["error"]["message"]
        await plane.ask("POST", f"/v1/executions/{first.json['id']}/cancel", key=tight.text)
        assert (await created(plane, key=tight.text)).status == 202


async def test_a_full_or_absent_vault_refuses_and_nothing_is_kept(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        for name, value in (("is_full", True), ("is_up", False)):
            setattr(plane.vault, name, value)
            answer = await created(plane)
            assert (answer.status, answer.json["error"]["retryable"]) == (503, True)
            assert "retry-after" in answer.headers
        plane.vault.is_up = True
        assert await is_untouched(plane)


async def test_one_idempotency_key_is_one_execution_and_the_same_answer(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        headers = {"idempotency-key": "order-1"}
        first = await created(plane, headers=headers)
        await finish(plane, first.json["id"], b"{}")
        again = await asyncio.gather(*(created(plane, headers=headers) for _ in range(3)))
        assert {each.status for each in again} == {202}
        assert {each.body for each in again} == {first.body}
        assert [each.headers.get("idempotent-replayed") for each in (first, again[0])] == [None, "true"]
        other = await created(plane, body_input=CHAT | {"max_tokens": 11}, headers=headers)
        assert (other.status, other.json["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        for wrong in ("", "x" * 256):
            assert (await created(plane, headers={"idempotency-key": wrong})).status == 400
        assert (await plane.rows("SELECT count(*) FROM asynchronous_execution")) == [(1,)]
        assert len(plane.vault.values) == 2  # the first one's


async def test_a_repetition_is_answered_whatever_became_of_what_it_asks_for(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        headers = {"idempotency-key": "order-1"}
        first = await created(plane, headers=headers)
        task = {"model": "film-1", "prompt": "x", "duration": 1}
        film = await plane.ask("POST", "/v1/video/generations", task, headers={"idempotency-key": "film-1"})
        assert (first.status, film.status) == (202, 200)
        plane.view = build_view(Catalogue(), 2)
        plane.vault.is_up = False
        again = await created(plane, headers=headers)
        assert (again.status, again.body, again.headers["idempotent-replayed"]) == (202, first.body, "true")
        again = await plane.ask("POST", "/v1/video/generations", task, headers={"idempotency-key": "film-1"})
        assert (again.status, again.body, again.headers["idempotent-replayed"]) == (200, film.body, "true")
        other = await created(plane, body_input=CHAT | {"max_tokens": 11}, headers=headers)
        assert (other.status, other.json["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        async with plane.pool.system() as connection:
            await connection.execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")
        assert (await created(plane, headers=headers)).status == 400  # a day later it is a new request


@pytest.mark.parametrize("retired", [1, 2])
async def test_a_repetition_is_known_whichever_peppers_are_in_force(
    database: str, tmp_path: Path, retired: int
) -> None:
    async with executing(database, tmp_path) as plane:
        orders = [{"idempotency-key": f"order-{number}"} for number in range(2)]
        first = [await created(plane, headers=orders[0])]
        await plane.operator.rotate_pepper()
        await plane.take_peppers()
        first.append(await created(plane, headers=orders[1]))
        if retired == 1:
            plane.key = await plane.make_key(plane.org_id)  # which needs the newest alone
        await plane.operator.retire_pepper(retired, is_sure=True)  # or, of the newest: it was not copied here yet
        await plane.take_peppers()
        for order, before in zip(orders, first, strict=True):
            again = await created(plane, headers=order)
            assert (again.status, again.body, again.headers["idempotent-replayed"]) == (202, before.body, "true")


async def test_a_repetition_of_what_was_claimed_under_a_pepper_is_known(database: str, tmp_path: Path) -> None:
    """As versions before this one did."""
    async with executing(database, tmp_path) as plane:
        headers = {"idempotency-key": "order-1"}
        body = json.dumps({"model": "text-1", "input": CHAT}).encode()
        first = await plane.ask("POST", "/v1/executions", body, headers=headers)
        digest = plane.keyring.peppers.newest.hmac.digest
        async with plane.pool.system() as connection:
            await connection.execute(
                "UPDATE idempotency_key SET key_digest = %s, fingerprint = %s",
                (digest(b"execution key\0order-1"), digest(b"/v1/executions\0" + body)),
            )
        await plane.operator.rotate_pepper()
        await plane.take_peppers()
        again = await plane.ask("POST", "/v1/executions", body, headers=headers)
        assert (again.status, again.body, again.headers["idempotent-replayed"]) == (202, first.body, "true")
        other = await created(plane, body_input=CHAT | {"max_tokens": 11}, headers=headers)
        assert (other.status, other.json["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")


async def test_an_acceptance_of_which_nobody_hears_keeps_its_input(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with executing(database, tmp_path) as plane:
        create = plane.executions.create

        async def create_unheard(*arguments: Any, **options: Any) -> Any:
            await create(*arguments, **options)
            raise LedgerUnavailable

        headers = {"idempotency-key": "order-1"}
        with monkeypatch.context() as patched:
            patched.setattr(plane.executions, "create", create_unheard)
            assert (await created(plane, headers=headers)).status == 503
        again = await created(plane, headers=headers)
        assert (again.status, again.headers["idempotent-replayed"]) == (202, "true")
        assert await plane.vault.get(input_key(ids.parse("exec", again.json["id"]))) is not None


async def test_a_body_of_too_many_parts_is_refused_before_it_is_checked(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: object, **__: object) -> tuple[bytes, ...]:
        raise AssertionError("this takes a hundred times as long as its sender needed")

    async with executing(database, tmp_path) as plane:
        part = {"type": "text", "text": "x"}
        with monkeypatch.context() as patched:
            patched.setattr(execution_acceptance, "check_body", check)
            for content in ([part] * 8_000, [""] * 40_000, [0] * 600_000):
                messages = [{"role": "user", "content": content}]
                answer = await created(plane, body_input={"messages": messages})
                assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
                assert len(answer.json["error"]["message"]) > 40
        many = await created(plane, body_input={"messages": [{"role": "user", "content": [part] * 2_001}]})
        assert [each["code"] for each in many.json["error"]["details"]] == ["OUT_OF_RANGE"]
        long_text = '{["\\' * 100_000
        assert (await created(plane, body_input={"messages": [{"role": "user", "content": long_text}]})).status != 413


async def test_a_key_for_executions_makes_them_and_one_of_other_models_does_not(database: str, tmp_path: Path) -> None:
    async with executing(database, tmp_path) as plane:
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        assert (await created(plane, key=weak.text)).status == 202
        bound = await plane.make_key(plane.org_id, limits=Limits(models=frozenset({"painter-1"})))
        refused = await created(plane, key=bound.text)
        unknown = await created(plane, "nobody-1", key=bound.text)
        assert refused.status == unknown.status == 400
        assert refused.json["error"]["details"] == unknown.json["error"]["details"]
        assert (await created(plane, key="sk_" + "0" * 64 + "_00000000")).status == 401


async def test_prefer_wait_answers_with_the_end_or_after_the_time_with_what_there_is(
    database: str, tmp_path: Path
) -> None:
    async with executing(database, tmp_path) as plane:
        waiting = asyncio.ensure_future(created(plane, headers={"prefer": "respond-async, wait=30"}))
        await finish(plane, await newest(plane), b'{"text":"done"}')
        answer = await asyncio.wait_for(waiting, 20)
        assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=30")
        assert (answer.json["status"], answer.json["output"]) == ("COMPLETED", {"text": "done"})

        early = await created(plane, headers={"prefer": "wait=0"})
        assert (early.status, early.headers["preference-applied"]) == (202, "wait=0")
        assert early.json["status"] == "PENDING"
        assert "preference-applied" not in (await created(plane, headers={"prefer": "waiting"})).headers
