"""Signatures of callbacks: Standard Webhooks, fal's Ed25519, and a plain HMAC header. Constant time; a timestamp that
is signed is fresh to within `CALLBACK_TOLERANCE_S`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from waypost.kit.crypto import hmac_sha256
from waypost.providers.job import CALLBACK_TOLERANCE_S, JobDescription, Signature

SIGNATURES_MAX = 8  # in one header: a few secrets while they are replaced
PUBLIC_KEYS_MAX = 16
_SECRET_PREFIX = "whsec_"  # noqa: S105  what such secrets begin with
_KEY_BYTES = 32


class _Key(msgspec.Struct):
    kty: str = ""
    crv: str = ""
    x: str = ""


class _KeySet(msgspec.Struct):
    keys: list[_Key] = []


_decode_keys = msgspec.json.Decoder(_KeySet).decode


def standard_webhook(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now_s: int) -> Signature:
    """By standardwebhooks.com: `v1,` and base64 of HMAC-SHA256 over id, timestamp and body. Secrets are `whsec_` and
    base64."""
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "")
    if not given or not secrets:
        return Signature.ABSENT
    if not event_id or not is_fresh(timestamp, now_s):
        return Signature.INVALID
    message = f"{event_id}.{timestamp}.".encode() + body
    sent = [each.partition(",")[2] for each in given.split(" ")[:SIGNATURES_MAX] if each.startswith("v1,")]
    is_valid = False
    for secret in secrets:
        expected = base64.b64encode(hmac_sha256(_secret_bytes(secret), message))
        for each in sent:
            is_valid |= hmac.compare_digest(each.encode(), expected)
    return Signature.VALID if is_valid else Signature.INVALID


def fal_webhook(headers: Mapping[str, str], body: bytes, public_keys: Sequence[bytes], now_s: int) -> Signature:
    """Ed25519 over request id, user id, timestamp and the body's SHA-256 in hex, a line each; the signature is hex."""
    names = ("request-id", "user-id", "timestamp", "signature")
    request_id, user_id, timestamp, given = (headers.get(f"x-fal-webhook-{name}", "") for name in names)
    if not given or not public_keys:
        return Signature.ABSENT
    if not request_id or not is_fresh(timestamp, now_s):
        return Signature.INVALID
    message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())).encode()
    try:
        signature = bytes.fromhex(given)
    except ValueError:
        return Signature.INVALID
    for each in public_keys[:PUBLIC_KEYS_MAX]:
        try:
            Ed25519PublicKey.from_public_bytes(each).verify(signature, message)
        except (InvalidSignature, ValueError):
            continue
        return Signature.VALID
    return Signature.INVALID


def read_key_set(document: bytes) -> tuple[bytes, ...]:
    """The Ed25519 keys of a JSON Web Key Set (RFC 8037); none of what cannot be read."""
    try:
        keys = _decode_keys(document).keys
    except (ValueError, RecursionError):
        return ()
    found = []
    for key in keys[:PUBLIC_KEYS_MAX]:
        try:
            raw = base64.b64decode(key.x + "=" * (-len(key.x) % 4), altchars=b"-_", validate=True)
        except ValueError:
            continue
        if key.kty == "OKP" and key.crv == "Ed25519" and len(raw) == _KEY_BYTES:
            found.append(raw)
    return tuple(found)


def plain_hmac(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now_s: int, description: JobDescription
) -> Signature:
    """HMAC-SHA256 of the body in one header, as configured; with `timestamp_header` over `timestamp.body`."""
    given = headers.get(description.signature_header.lower(), "") if description.signature_header else ""
    if not given or not secrets:
        return Signature.ABSENT
    message = body
    if description.timestamp_header:
        timestamp = headers.get(description.timestamp_header.lower(), "")
        if not is_fresh(timestamp, now_s):
            return Signature.INVALID
        message = f"{timestamp}.".encode() + body
    if not given.startswith(description.signature_prefix):
        return Signature.INVALID
    sent = given[len(description.signature_prefix) :].encode()
    is_valid = False
    for secret in secrets:
        digest = hmac_sha256(secret.encode(), message)
        is_hex = description.signature_encoding == "hex"
        expected = digest.hex().encode() if is_hex else base64.b64encode(digest)
        is_valid |= hmac.compare_digest(sent.lower() if is_hex else sent, expected)
    return Signature.VALID if is_valid else Signature.INVALID


def is_fresh(timestamp: str, now_s: int) -> bool:
    """Whether Unix seconds are within `CALLBACK_TOLERANCE_S` of now."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    return abs(int(timestamp) - now_s) <= CALLBACK_TOLERANCE_S


def _secret_bytes(secret: str) -> bytes:
    text = secret.removeprefix(_SECRET_PREFIX)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return secret.encode()
