"""Callbacks are verified as their providers sign them; a change anywhere, an old timestamp, a wrong key: not theirs."""

from __future__ import annotations

import base64
import datetime
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from tests.providers.job_samples import DESCRIPTION, FOLDER, target
from waypost.kit.crypto import hmac_sha256
from waypost.providers import JOB_KINDS
from waypost.providers.job import Callback, CallbackKeys, Signature
from waypost.providers.job_signature import is_fresh, read_key_set

NOW_S = 1_790_000_000
BODY = b'{"id":"p-1","request_id":"r-1","task":{"uid":5},"output":"CANARY"}'
SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
REPLICATE, FAL, PLAIN = JOB_KINDS["replicate"], JOB_KINDS["fal"], JOB_KINDS["http-job"]
TO = target("a/b")
TASKS = target("a/b", description=DESCRIPTION)
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"f" * 32)
PUBLIC = PRIVATE.public_key().public_bytes_raw()


def standard_headers(at_s: int = NOW_S, body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    """As the reference implementation signs."""
    moment = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    signature = Webhook(secret).sign("msg_1", moment, body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at_s), "webhook-signature": signature}


def fal_headers(at_s: int = NOW_S, body: bytes = BODY) -> dict[str, str]:
    message = f"r-1\nuser-1\n{at_s}\n{hashlib.sha256(body).hexdigest()}".encode()
    return {
        "x-fal-webhook-request-id": "r-1",
        "x-fal-webhook-user-id": "user-1",
        "x-fal-webhook-timestamp": str(at_s),
        "x-fal-webhook-signature": PRIVATE.sign(message).hex(),
    }


def plain_headers(at_s: int = NOW_S, body: bytes = BODY) -> dict[str, str]:
    digest = hmac_sha256(b"secret", f"{at_s}.".encode() + body).hex()
    return {"x-signature": f"sha256={digest}", "x-time": str(at_s), "x-event": "e-9"}


def replicate(headers: dict[str, str], body: bytes = BODY, *secrets: str) -> Signature:
    return REPLICATE.verify(headers, body, CallbackKeys(secrets=secrets or (SECRET,)), NOW_S, TO)


def fal(headers: dict[str, str], body: bytes = BODY, *keys: bytes) -> Signature:
    return FAL.verify(headers, body, CallbackKeys(public_keys=keys or (PUBLIC,)), NOW_S, TO)


def plain(headers: dict[str, str], body: bytes = BODY, *secrets: str) -> Signature:
    return PLAIN.verify(headers, body, CallbackKeys(secrets=secrets or ("secret",)), NOW_S, TASKS)


SCHEMES = [(replicate, standard_headers), (fal, fal_headers), (plain, plain_headers)]


@pytest.mark.parametrize(("verify", "sign"), SCHEMES)
def test_the_providers_own_word_is_valid(verify, sign) -> None:  # type: ignore[no-untyped-def]
    assert verify(sign()) is Signature.VALID
    assert verify(sign(NOW_S - 299)) is Signature.VALID
    assert verify(sign(NOW_S + 299)) is Signature.VALID


@pytest.mark.parametrize(("verify", "sign"), SCHEMES)
def test_another_body_an_old_one_or_a_changed_header_is_not(verify, sign) -> None:  # type: ignore[no-untyped-def]
    assert verify(sign(), BODY + b" ") is Signature.INVALID
    assert verify(sign(NOW_S - 301)) is Signature.INVALID
    assert verify(sign(NOW_S + 301)) is Signature.INVALID
    for name in sign():
        if name in ("x-event", "x-fal-webhook-signature", "webhook-signature", "x-signature"):
            continue
        assert verify(sign() | {name: sign()[name] + "1"}) is Signature.INVALID
    for name in ("webhook-signature", "x-fal-webhook-signature", "x-signature"):
        if name in sign():
            assert verify(sign() | {name: sign()[name][:-4] + "AAAA"}) is Signature.INVALID
            assert verify(sign() | {name: "ü"}) is Signature.INVALID


@pytest.mark.parametrize(("verify", "sign"), SCHEMES)
def test_without_a_signature_there_is_nothing_to_believe(verify, sign) -> None:  # type: ignore[no-untyped-def]
    assert verify({}) is Signature.ABSENT


def test_without_a_secret_nothing_is_valid() -> None:
    assert REPLICATE.verify(standard_headers(), BODY, CallbackKeys(), NOW_S, TO) is Signature.ABSENT
    assert FAL.verify(fal_headers(), BODY, CallbackKeys(), NOW_S, TO) is Signature.ABSENT
    assert PLAIN.verify(plain_headers(), BODY, CallbackKeys(), NOW_S, TASKS) is Signature.ABSENT


def test_one_of_several_secrets_or_keys_is_enough() -> None:
    other = "whsec_" + base64.b64encode(b"o" * 24).decode()
    assert replicate(standard_headers(), BODY, other, SECRET) is Signature.VALID
    assert replicate(standard_headers(), BODY, other) is Signature.INVALID
    several = standard_headers()
    several["webhook-signature"] = "v1,AAAA v1a,BBBB " + several["webhook-signature"]
    assert replicate(several) is Signature.VALID
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32).public_key().public_bytes_raw()
    assert fal(fal_headers(), BODY, stranger, PUBLIC) is Signature.VALID
    assert fal(fal_headers(), BODY, stranger) is Signature.INVALID
    assert plain(plain_headers(), BODY, "other", "secret") is Signature.VALID


def test_a_key_set_gives_its_ed25519_keys_and_nothing_else() -> None:
    (key,) = read_key_set((FOLDER / "fal-jwks.json").read_bytes())
    assert key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # RFC 8037, appendix A
    assert read_key_set(b"<html>") == ()
    assert read_key_set(b'{"keys":[{"x":1}]}') == ()


@pytest.mark.parametrize("timestamp", ["", "now", "-5", "1e9", "９", "9" * 13, str(NOW_S) + ".5"])
def test_what_is_no_timestamp_is_not_fresh(timestamp: str) -> None:
    assert not is_fresh(timestamp, NOW_S)


def test_ids_are_all_that_is_kept_of_a_callback() -> None:
    assert REPLICATE.read_callback(standard_headers(), BODY, TO) == Callback("msg_1", "p-1")
    assert FAL.read_callback(fal_headers(), BODY, TO) == Callback("r-1", "r-1")
    assert PLAIN.read_callback(plain_headers(), BODY, TASKS) == Callback("e-9", "5")
    for kind, to in ((REPLICATE, TO), (FAL, TO), (PLAIN, TASKS)):
        assert kind.read_callback({}, b"\xff not json", to) == Callback("", "")
