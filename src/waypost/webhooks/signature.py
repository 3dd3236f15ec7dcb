"""How a receiver knows that a webhook is ours: signed after ModelRoute and after Standard Webhooks, with one secret.

    X-Signature         hex HMAC-SHA256 under the secret's whole text, over "{timestamp}.{body}"
    webhook-signature   "v1,{base64}" under the bytes that the text encodes, over "{id}.{timestamp}.{body}"
                        (https://www.standardwebhooks.com, symmetric signatures)

While an old secret still counts, both sign: `webhook-signature` holds two values, as that standard has it, and
`X-Signature-Previous` stands beside `X-Signature`, which has room for one.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from waypost.kit.crypto import hmac_sha256

PREFIX = "whsec_"
SECRET_BYTES = 32
TOLERANCE_S = 300  # that receivers should allow between our clock and theirs
USER_AGENT = "Waypost-Webhooks/1.0"


def secret_text(random: bytes) -> str:
    """`whsec_` and base64: how both kinds of receivers are given it."""
    assert len(random) == SECRET_BYTES
    return PREFIX + base64.b64encode(random).decode()


def headers_of(
    body: bytes, *, message_id: str, timestamp_s: int, secrets: Sequence[str], custom: Mapping[str, str]
) -> dict[str, str]:
    """Every header of an attempt that is not HTTP's own. `secrets` are texts, the newest first; of `custom` those that
    `header_rules` lets through."""
    assert 1 <= len(secrets) <= 2
    stamp = str(timestamp_s)
    signed = [hmac_sha256(secret.encode(), f"{stamp}.".encode() + body).hex() for secret in secrets]
    standard = " ".join(_standard(secret, f"{message_id}.{stamp}.".encode() + body) for secret in secrets)
    ours = {"x-signature": signed[0], "x-signature-timestamp": stamp}
    if len(signed) > 1:
        ours["x-signature-previous"] = signed[1]
    ours |= {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": standard}
    return {"user-agent": USER_AGENT, **custom, "content-type": "application/json", **ours}


def _standard(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac_sha256(key, content)).decode()
