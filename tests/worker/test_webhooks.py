"""Webhooks arrive: signed, again when they must, and past receivers that are slow, broken or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time

import pytest
from standardwebhooks.webhooks import Webhook

from tests.upstream.traps import connections, trap
from tests.worker import webhook_storm
from tests.worker.receivers import receivers, running, until
from tests.worker.webhook_desk import QUICK, desk
from waypost.kit.ids import text
from waypost.kit.values import replace
from waypost.storage.webhook_deliveries import record
from waypost.storage.webhook_endpoints import Change, change_endpoint, organisation_secret, rotate_secret
from waypost.storage.webhook_history import replay
from waypost.webhooks.schedule import Schedule
from waypost.webhooks.signature import secret_text
from waypost.worker import webhooks as worker_module
from waypost.worker.webhooks import TooManyTests

NEVER = replace(QUICK, schedule=Schedule(retry_s=(600,)))


async def test_an_endpoint_hears_of_the_beginning_and_the_end_signed_both_ways(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/ok/1"), headers={"x-tenant": "7"})
        async with running(here.worker()):
            await here.completed(await here.started())
            await until(lambda: len(there.arrivals) == 2)
            assert {each.state for each in await here.settled()} == {"DELIVERED"}

    assert sorted(each.event for each in there.arrivals) == ["execution.completed", "execution.started"]
    secret = here.secrets[endpoint.id]
    for each in there.arrivals:
        told = Webhook(secret).verify(each.body, each.headers)
        signed = f"{each.headers['x-signature-timestamp']}.".encode() + each.body
        assert each.headers["x-signature"] == hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        assert abs(int(each.headers["x-signature-timestamp"]) - time.time()) < 30
        assert (each.headers["user-agent"], each.headers["content-type"], each.headers["x-tenant"]) == (
            "Waypost-Webhooks/1.0",
            "application/json",
            "7",
        )
        assert told["id"] == each.event_id
        assert told["sequence"] == (1 if told["type"] == "execution.started" else 2)
        assert told["data"]["cost"] == (None if told["type"] == "execution.started" else "0.000001")


async def test_what_is_being_recorded_when_the_sender_stops_is_recorded_all_the_same(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def stand_still(*_: object) -> dict[bytes, str]:
        monkeypatch.setattr(worker_module, "record", record)
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(worker_module, "record", stand_still)
    async with receivers() as there, desk(database) as here:
        await here.endpoint(there.url("/ok/1"))
        async with running(here.worker()):
            await here.started()
            async with asyncio.timeout(30):
                await begun.wait()
        (delivery,) = await here.deliveries()

    assert (delivery.state, delivery.attempts) == ("DELIVERED", 1)
    assert len(there.arrivals) == 1


async def test_the_url_of_a_request_hears_it_signed_with_the_organisations_own_secret(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        async with running(here.worker()):
            await here.started(there.url("/ok/own"))
            await until(lambda: len(there.arrivals) == 1)
        sealed, _ = await organisation_secret(here.books.app, here.org_id, fresh=b"unused")
        Webhook(here.sealed.secret(here.org_id, sealed)).verify(there.arrivals[0].body, there.arrivals[0].headers)


async def test_after_a_rotation_both_secrets_verify(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/ok/1"))
        old, new = here.secrets[endpoint.id], secret_text(b"n" * 32)
        sealed = here.sealed.seal_secret(endpoint.id, new)
        await rotate_secret(here.books.app, here.org_id, endpoint.id, secret=sealed)
        async with running(here.worker()):
            await here.started()
            await until(lambda: len(there.arrivals) == 1)
        for secret in (old, new):
            Webhook(secret).verify(there.arrivals[0].body, there.arrivals[0].headers)


async def test_what_fails_is_tried_again_with_the_same_id_and_a_new_timestamp(database: str) -> None:
    schedule = Schedule(retry_s=(1.0, 0.05, 0.05))
    settings = replace(QUICK, schedule=schedule)
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/fails/1"), "execution.started")
        async with running(here.worker(settings)):
            await here.started()
            await until(lambda: len(there.arrivals) == 4)
            (dead,) = await here.settled()
    assert (dead.state, dead.reason, dead.attempts, dead.last_status) == ("DEAD", "exhausted", 4, 500)
    assert len({(each.event_id, each.body) for each in there.arrivals}) == 1
    assert there.arrivals[1].headers["webhook-timestamp"] > there.arrivals[0].headers["webhook-timestamp"]
    for each in there.arrivals:
        Webhook(here.secrets[endpoint.id]).verify(each.body, each.headers)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("moved", "http_302"), ("resets", "broken"), ("hangs", "timeout"), ("fails", "http_500"), ("busy", "http_429")],
)
async def test_whatever_is_no_success_is_a_failure_of_its_kind(database: str, kind: str, error: str) -> None:
    bounds = replace(QUICK.bounds, total_s=0.5)
    settings = replace(NEVER, bounds=bounds)
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url(f"/{kind}/1"), "execution.started")
        async with running(here.worker(settings)):
            await here.started()
            (found,) = await here.tried()
        assert (found.state, found.last_error) == ("PENDING", error)
        assert (await here.found(endpoint)).last_failure == error
        assert there.of("/ok/moved") == []


async def test_an_answer_without_end_is_a_success_that_nobody_reads(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        await here.endpoint(there.url("/talks/1"), "execution.started")
        async with running(here.worker()):
            await here.started()
            assert [each.state for each in await here.settled(within_s=10)] == ["DELIVERED"]


async def test_gone_ends_the_endpoint_at_once(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/gone/1"), "execution.started")
        async with running(here.worker()):
            await here.started()
            assert [each.reason for each in await here.settled()] == ["gone"]
            await here.started()
        assert (await here.found(endpoint)).state == "GONE"
        assert len(there.arrivals) == 1


async def test_ten_failures_deactivate_and_replay_sends_what_was_missed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.webhooks.lane.REST_S", (0.01,) * 5)
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/fails/1"), "execution.started")
        worker = here.worker(NEVER)
        async with running(worker):
            for _ in range(12):
                await here.started()
            dead = await here.settled()
            assert {(each.state, each.reason) for each in dead} == {("DEAD", "endpoint_inactive")}
            assert len(there.arrivals) == 10
            assert ((await here.found(endpoint)).state, (await here.found(endpoint)).dead_letters) == ("FAILING", 12)

            there.heals = True
            await change_endpoint(here.books.app, here.org_id, endpoint.id, Change(state="ACTIVE"))
            replayed = await replay(here.books.app, here.org_id, endpoint.id, since=None, expires_s=60)
            assert replayed == 12
            assert {each.state for each in await here.settled()} == {"DELIVERED"}
        assert len(there.accepted) == 12


async def test_no_receiver_gets_more_than_four_at_one_time(database: str) -> None:
    settings = replace(NEVER, bounds=replace(QUICK.bounds, total_s=0.3))
    async with receivers() as there, desk(database) as here:
        await here.endpoint(there.url("/ok/1"), "execution.started")
        async with running(here.worker(settings)):
            for _ in range(60):
                await here.started()
            await here.settled()
    assert len(there.accepted) == 60
    assert 1 <= there.most_at_once["/ok/1"] <= 4


async def test_some_three_hundred_receivers_that_hang_hold_up_nobody_else(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        begun = []
        for org in range(3):
            here.org_id = await here.books.org(credit_nanos=1_000_000)
            for at in range(99):
                await here.endpoint(there.url(f"/hangs/{100 * org + at}"), "execution.started")
            begun += [await here.started() for _ in range(3)]
        await here.endpoint(there.url("/ok/1"), "execution.completed")
        slow = replace(NEVER, bounds=replace(QUICK.bounds, total_s=30, idle_s=30))
        async with running(here.worker(slow)):
            await until(lambda: len(there.arrivals) == 297)
            for each in begun[-3:]:
                await here.completed(each)
            await until(lambda: len(there.of("/ok/1")) == 3, within_s=10)
            there.end()
    assert max(there.most_at_once.values()) == 1, "one that nobody knows to be quick gets one place"


async def test_a_worker_that_dies_between_sending_and_recording_has_sent_at_least_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> dict[bytes, str]:
        return await asyncio.Event().wait()  # type: ignore[return-value]  # it does not return

    monkeypatch.setattr(worker_module, "_STOP_S", 0.1)
    async with receivers() as there, desk(database) as here:
        await here.endpoint(there.url("/ok/1"), "execution.started")
        with monkeypatch.context() as dies:
            dies.setattr(worker_module, "record", never)
            task = asyncio.ensure_future(here.worker().run())
            await here.started()
            await until(lambda: len(there.arrivals) == 1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert [each.state for each in await here.deliveries()] == ["PENDING"]
        async with here.books.app.system() as connection:  # fifteen seconds later
            await connection.execute("UPDATE webhook_delivery SET due_at = now()")
        async with running(here.worker()):
            assert [each.state for each in await here.settled()] == ["DELIVERED"]
    assert [each.event_id for each in there.arrivals] == [there.arrivals[0].event_id] * 2


async def test_two_workers_share_the_work(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        for at in range(5):
            await here.endpoint(there.url(f"/ok/{at}"), "execution.started")
        async with running(here.worker()), running(here.worker()):
            for _ in range(20):
                await here.started()
            await here.settled()
    assert len(there.arrivals) == 100
    assert set(there.accepted.values()) == {5}, "an event for each endpoint, and none twice"


async def test_what_is_not_on_the_public_internet_is_not_connected_to(database: str) -> None:
    async with trap() as caught, desk(database) as here:
        hosts = ("127.0.0.1", "localhost", "[::1]", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "2130706433")
        for host in hosts:
            await here.endpoint(f"https://{host}:{caught.port}/", "execution.started")
        with connections() as record:
            async with running(here.worker(NEVER, allow=())):
                await here.started(f"http://127.0.0.1:{caught.port}/")
                tried = await here.tried()
    assert {each.last_error for each in tried} == {"forbidden"}
    assert ([each for each in record if isinstance(each, tuple)], caught.visits) == ([], [])


async def test_a_test_goes_out_at_once_and_tells_how_it_went(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receivers() as there, desk(database) as here:
        good, bad = await here.endpoint(there.url("/ok/1")), await here.endpoint(there.url("/fails/1"))
        worker = here.worker()
        delivery_id, attempt = await worker.test(here.org_id, good.id)
        assert (attempt.status, attempt.is_success) == (204, True)
        assert (await worker.test(here.org_id, bad.id))[1].error == "http_500"
        told = json.loads(there.of("/ok/1")[0].body)
        assert (told["type"], told["execution_id"], told["data"]) == ("webhook.test", None, {})
        Webhook(here.secrets[good.id]).verify(there.arrivals[0].body, there.arrivals[0].headers)
        states = {text("whd", each.id): each.state for each in await here.deliveries()}
        assert states[text("whd", delivery_id)] == "DELIVERED"
        with pytest.raises(LookupError):
            await worker.test(await here.books.org(), good.id)
        monkeypatch.setattr(worker_module, "TESTS_MAX", 0)
        with pytest.raises(TooManyTests):
            await worker.test(here.org_id, good.id)


async def test_one_organisations_tests_leave_places_for_those_of_others(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        slow, worker = await here.endpoint(there.url("/hangs/1")), here.worker()
        under_way = [
            asyncio.ensure_future(worker.test(here.org_id, slow.id)) for _ in range(worker_module.TESTS_OF_ONE_MAX)
        ]
        await asyncio.sleep(0.2)
        with pytest.raises(TooManyTests):
            await worker.test(here.org_id, slow.id)
        here.org_id = await here.books.org(credit_nanos=1_000)
        quick = await here.endpoint(there.url("/ok/1"))
        assert (await worker.test(here.org_id, quick.id))[1].is_success
        for _, attempt in await asyncio.gather(*under_way):
            assert not attempt.is_success


async def test_one_organisations_slow_receivers_leave_places_for_first_deliveries_of_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "UNPROVEN_MAX", 8)
    monkeypatch.setattr(worker_module, "UNPROVEN_TAKEN_MAX", 1)
    async with receivers() as there, desk(database) as here:
        for number in range(30):
            await here.endpoint(there.url(f"/hangs/{number}"), "execution.started")
        await here.started()
        async with running(here.worker(NEVER)):
            await until(lambda: len(there.arrivals) >= 4)
            await asyncio.sleep(0.3)
            assert len(there.arrivals) == 4  # half of the places
            here.org_id = await here.books.org(credit_nanos=1_000_000_000)
            await here.endpoint(there.url("/ok/1"), "execution.started")
            await here.started()
            await until(lambda: bool(there.of("/ok/1")))


async def test_a_secret_of_another_deployment_keeps_its_webhooks_waiting(
    database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with receivers() as there, desk(database) as here:
        endpoint = await here.endpoint(there.url("/ok/1"), "execution.started")
        async with here.books.app.system() as connection:
            await connection.execute("UPDATE webhook_endpoint SET secret = 'x'")
        async with running(here.worker()):
            await here.started()
            await until(lambda: "WebhookSecretUnreadable" in capfd.readouterr().err)
        (waiting,) = await here.deliveries()
        assert (waiting.state, waiting.attempts) == ("PENDING", 0)
        assert (await here.found(endpoint)).failures == 0
    assert there.arrivals == []


async def test_metrics_tell_what_became_of_attempts(database: str) -> None:
    async with receivers() as there, desk(database) as here:
        await here.endpoint(there.url("/ok/1"), "execution.started")
        await here.endpoint(there.url("/fails/1"), "execution.started")
        async with running(here.worker(NEVER)):
            await here.started()
            await until(lambda: b'attempts_total{outcome="retry"} 1.0' in here.page.render())
            await until(lambda: b'attempts_total{outcome="delivered"} 1.0' in here.page.render())
            assert b"waypost_webhook_first_attempt_seconds_count 2.0" in here.page.render()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_of_a_thousand_webhooks_none_is_lost_though_many_receivers_fail_and_the_sender_dies(
    database: str,
) -> None:
    found = await webhook_storm.run(database, deliveries=1_000, kills=2, seed=20_261_126, per_s=25)

    assert found.deliveries == 1_000
    assert (found.lost, found.untrue) == (0, 0), found
    assert found.delivered >= 650, "seven of ten receivers answer, if not at once"
