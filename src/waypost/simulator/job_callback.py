"""Callbacks of the simulated providers: signed as each kind signs, repeated when nobody answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from waypost.kit.crypto import hmac_sha256

WEBHOOK_SECRET = "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0"  # noqa: S105  of the replicate style; known to all
PLAIN_SECRET = "simulated-callback-secret"  # noqa: S105  of the plain style
TRIES = 4
RETRY_S = 0.3  # doubled each time
_TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 65_536
_FAL_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"simulated fal key").digest())
_FORGER = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"somebody else").digest())

Headers = list[tuple[str, str]]


def key_set() -> dict[str, object]:
    """The public keys of the fal style, as a JSON Web Key Set."""
    public = base64.urlsafe_b64encode(_FAL_KEY.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "sim", "x": public}]}


def signed(style: str, event_id: str, body: bytes, now_s: int, *, is_forged: bool) -> Headers:
    """Headers of a callback; forged ones are signed by somebody else."""
    if style == "replicate":
        secret = b"somebody else" if is_forged else base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
        signature = base64.b64encode(hmac_sha256(secret, f"{event_id}.{now_s}.".encode() + body)).decode()
        return [("webhook-id", event_id), ("webhook-timestamp", str(now_s)), ("webhook-signature", f"v1,{signature}")]
    if style == "fal":
        message = "\n".join((event_id, "sim-user", str(now_s), hashlib.sha256(body).hexdigest())).encode()
        named = (("Request-Id", event_id), ("User-Id", "sim-user"), ("Timestamp", str(now_s)))
        signature = (_FORGER if is_forged else _FAL_KEY).sign(message).hex()
        return [(f"X-Fal-Webhook-{name}", value) for name, value in (*named, ("Signature", signature))]
    secret = b"somebody else" if is_forged else PLAIN_SECRET.encode()
    digest = hmac_sha256(secret, f"{now_s}.".encode() + body).hex()
    return [("X-Sim-Signature", f"sha256={digest}"), ("X-Sim-Time", str(now_s)), ("X-Sim-Event", event_id)]


async def call(url: str, headers: Headers, body: bytes) -> int:
    """POST once; the status, 0 when nobody answered."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=parts.scheme == "https" or None)
            try:
                lines = [
                    f"POST {parts.path or '/'} HTTP/1.1",
                    f"Host: {parts.netloc}",
                    "Content-Type: application/json",
                ]
                lines += [f"{name}: {value}" for name, value in headers]
                lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
                writer.write("\r\n".join(lines).encode("latin-1") + body)
                head = await reader.read(_ANSWER_BYTES_MAX)
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1])
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0
