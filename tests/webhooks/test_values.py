"""Bodies, signatures, schedules, lanes and header rules, as values."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook

from waypost.kit import ids
from waypost.kit.ids import Ids
from waypost.webhooks.event import SUBSCRIBABLE, Event, EventType, ExecutionFacts, ResultFile, body_of
from waypost.webhooks.header_rules import HeaderRefused, read_headers
from waypost.webhooks.lane import PLACES_MAX, REST_S, Lane
from waypost.webhooks.schedule import Attempt, Dead, Delivered, Reason, Retry, Schedule, next_step, retry_after_s
from waypost.webhooks.sealed import Sealed, Unreadable
from waypost.webhooks.signature import headers_of, secret_text

IDS = Ids()
NOW = datetime(2026, 3, 22, 10, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
FAILED = Attempt(status=500)
TIMED_OUT = Attempt(failure="timeout", took_s=30)
OK = Attempt(status=204, took_s=0.1)


def event(**facts: object) -> Event:
    given = {"model": "flux-1.1-pro", "status": "COMPLETED", "created_at": NOW} | facts
    return Event(
        id=IDS.new(),
        type=EventType.COMPLETED,
        org_id=IDS.new(),
        execution_id=IDS.new(),
        sequence=2,
        happened_at=NOW,
        facts=ExecutionFacts(**given),  # type: ignore[arg-type]  # as the caller names them
    )


def test_the_body_is_model_routes_and_holds_ids_numbers_and_codes() -> None:
    one = event(
        completed_at=NOW + timedelta(seconds=8),
        cost_nanos=40_000_000,
        latency_ms=8000,
        files=(ResultFile("file_1", "image/png", 1024, 768),),
    )
    told = json.loads(body_of(one))
    assert (told["id"], told["organization_id"]) == (ids.text("evt", one.id), ids.text("org", one.org_id))
    assert told["event_type"] == told["type"] == "execution.completed"
    assert (told["version"], told["timestamp"], told["sequence"]) == ("1.0", "2026-03-22T10:00:00.000Z", 2)
    assert told["data"]["id"] == told["execution_id"] == ids.text("exec", one.execution_id or b"")
    assert (told["data"]["status"], told["data"]["cost"], told["data"]["latency_ms"]) == ("COMPLETED", "0.04", 8000)
    assert told["data"]["result"]["file_id"] == "file_1"
    assert told["data"]["error"] is None
    assert body_of(one) == body_of(one)


def test_a_failure_is_told_by_its_code_and_our_sentence_for_it() -> None:
    told = json.loads(body_of(event(status="FAILED", error_code="GENERATION_TIMEOUT")))
    assert told["data"]["error"] == {"code": "GENERATION_TIMEOUT", "message": "The model did not answer in time."}
    assert (told["data"]["result"], told["data"]["cost"]) == (None, None)


def test_nobody_subscribes_to_tests() -> None:
    assert (
        *("execution.started", "execution.completed", "execution.failed", "execution.cancelled", "execution.expired"),
    ) == SUBSCRIBABLE


def test_both_kinds_of_receivers_verify_with_either_secret_while_both_count() -> None:
    new, old = secret_text(b"n" * 32), secret_text(b"o" * 32)
    body, stamp = body_of(event()), int(time.time())
    headers = headers_of(body, message_id="evt_1", timestamp_s=stamp, secrets=[new, old], custom={})

    for secret, name in ((new, "x-signature"), (old, "x-signature-previous")):
        Webhook(secret).verify(body, headers)
        signed = f"{headers['x-signature-timestamp']}.{body.decode()}".encode()
        assert headers[name] == hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    alone = headers_of(body, message_id="evt_1", timestamp_s=stamp, secrets=[new], custom={"user-agent": "mine"})
    assert "x-signature-previous" not in alone
    assert alone["webhook-signature"].count("v1,") == 1
    assert (headers["user-agent"], alone["user-agent"]) == ("Waypost-Webhooks/1.0", "mine")
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(old).verify(body, alone)


def test_retries_follow_the_schedule_with_jitter_and_end() -> None:
    schedule = Schedule()

    def step(attempt: Attempt, attempts: int, chance: float = 0.5, expires_at: datetime = LATER) -> object:
        return next_step(schedule, attempt, attempts=attempts, now=NOW, expires_at=expires_at, chance=chance)

    assert step(OK, 1) == Delivered()
    for attempts, minutes in enumerate((2, 4, 8, 16, 30), start=1):
        assert step(FAILED, attempts) == Retry(NOW + timedelta(minutes=minutes))
        assert step(FAILED, attempts, 0.0) == Retry(NOW + timedelta(minutes=minutes * 0.8))
        assert step(FAILED, attempts, 1.0) == Retry(NOW + timedelta(minutes=minutes * 1.2))
    assert step(FAILED, 6) == Dead(Reason.EXHAUSTED)
    assert step(Attempt(status=410), 1) == Dead(Reason.GONE)
    assert isinstance(step(Attempt(status=302), 1), Retry), "a redirect is a failure"
    assert isinstance(step(Attempt(failure="tls"), 1), Retry)
    assert step(FAILED, 1, expires_at=NOW + timedelta(minutes=1)) == Dead(Reason.EXPIRED)
    assert step(Attempt(status=503, retry_after="600"), 1) == Retry(NOW + timedelta(minutes=10))
    assert step(Attempt(status=503, retry_after="10"), 1) == Retry(NOW + timedelta(minutes=2)), "not sooner"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("Sun, 22 Mar 2026 10:05:00 GMT", 300),
        ("Sun, 22 Mar 2026 09:00:00 GMT", 0),
        ("99999999999", 86_400),
        ("-5", 0),
        ("soon", 0),
        ("1.5", 0),
        ("", 0),
        ("٣", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(header: str | None, seconds: float) -> None:
    assert retry_after_s(header, NOW) == seconds


def end(lane: Lane, attempt: Attempt, now: float, retry_after: float = 0.0) -> None:
    lane.begin(now)
    lane.end(attempt, now=now, retry_after_s=retry_after, chance=0.5)


def test_a_lane_gets_a_place_more_with_each_success_up_to_four() -> None:
    lane = Lane()
    found = [lane.free(0.0)]
    for _ in range(6):
        end(lane, OK, 0.0)
        found.append(lane.free(0.0))
    assert found == [1, 2, 3, 4, 4, 4, PLACES_MAX]
    lane.begin(0.0)
    assert (lane.free(0.0), lane.is_proven) == (3, True)


def test_a_lane_that_fails_again_and_again_rests_longer_and_longer_and_a_success_opens_it() -> None:
    lane, now = Lane(), 0.0
    for _ in range(4):
        end(lane, FAILED, now)
        assert lane.free(now) == 1
    for rest_s in (*REST_S, REST_S[-1]):
        end(lane, FAILED, now)
        assert (lane.free(now), lane.free(now + rest_s - 0.01), lane.free(now + rest_s + 0.01)) == (0, 0, 1)
        now += rest_s + 0.01
    assert now > 300, "ten failures in a row are minutes"
    end(lane, OK, now)
    assert (lane.failures, lane.free(now)) == (0, 2)


def test_a_timeout_lets_the_lane_rest_at_once_and_a_wish_for_rest_is_respected() -> None:
    lane = Lane()
    end(lane, TIMED_OUT, 0.0)
    assert (lane.free(29.0), lane.free(31.0)) == (0, 1)
    end(lane, TIMED_OUT, 100.0)
    assert (lane.free(159.0), lane.free(161.0)) == (0, 1)
    polite = Lane()
    end(polite, Attempt(status=429), 0.0, retry_after=20.0)
    assert (polite.free(19.0), polite.free(21.0)) == (0, 1)
    greedy = Lane()
    end(greedy, Attempt(status=429), 0.0, retry_after=80_000.0)
    assert greedy.free(301.0) == 1


def test_a_lane_is_forgotten_when_it_is_idle() -> None:
    lane = Lane()
    lane.begin(0.0)
    assert not lane.is_idle(1000.0, 600.0)
    lane.end(OK, now=1000.0, retry_after_s=0.0, chance=0.5)
    assert (lane.is_idle(1500.0, 600.0), lane.is_idle(1601.0, 600.0)) == (False, True)


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "x"} for name in ("Host", "content-length", "Transfer-Encoding", "connection", "Keep-Alive", "TE")),
        *({name: "x"} for name in ("Content-Type", "Accept-Encoding", "Expect", "Upgrade", "Proxy-Authorization")),
        *(
            {name: "x"}
            for name in ("X-Signature", "x-signature-timestamp", "Webhook-Id", "webhook-signature", "trailer")
        ),
        *({name: "x"} for name in ("", "a b", "a:b", "ä", "a\r\nb", "x" * 65, "content-encoding", "range")),
        *({"x-a": value} for value in ("", " a", "a ", "a\r\nx-b: c", "a\nb", "ä", "\x00", "x" * 1025)),
        {"x-a": "1", "X-A": "2"},
        {f"x-{at}": "1" for at in range(17)},
    ],
)
def test_headers_that_are_https_or_ours_or_make_no_sense_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(HeaderRefused):
        read_headers(headers)


def test_a_receivers_own_headers_are_sent() -> None:
    assert read_headers({"Authorization": "Bearer a b", "X-Tenant": "7", "User-Agent": "u/1"}) == {
        "authorization": "Bearer a b",
        "x-tenant": "7",
        "user-agent": "u/1",
    }


def test_what_is_sealed_opens_for_its_owner_and_with_our_key_alone() -> None:
    ours, owner = Sealed(b"k" * 32), IDS.new()
    secret, headers = ours.seal_secret(owner, "whsec_x"), ours.seal_headers(owner, {"a": "b"})
    assert (ours.secret(owner, secret), ours.headers(owner, headers)) == ("whsec_x", {"a": "b"})
    assert (ours.seal_headers(owner, {}), ours.headers(owner, None)) == (None, {})
    assert b"whsec_x" not in secret
    for sealed, who in ((Sealed(b"o" * 32), owner), (ours, IDS.new())):
        with pytest.raises(Unreadable):
            sealed.secret(who, secret)


def test_urls_of_one_organisation_and_host_share_a_lane_that_tells_nobody_without_the_key_where() -> None:
    ours, owner, url = Sealed(b"k" * 32), IDS.new(), "https://Hooks.example.com/a"
    lane = ours.lane(owner, url)
    assert len(lane) == 16
    assert ours.lane(owner, ours.seal_url(owner, "https://hooks.example.com/b?c")) == lane
    others = (Sealed(b"o" * 32).lane(owner, url), ours.lane(IDS.new(), url), ours.lane(owner, "https://example.com/a"))
    assert lane not in others
    unreadable = Sealed(b"o" * 32).seal_url(owner, url)
    assert len(ours.lane(owner, unreadable)) == 16, "no execution fails for it"
