"""URLs that open one file, for one use, for a while, to whoever has them: signed by HMAC, so that nothing is kept of
them.

    PUT  /v1/files/{id}/content    the bytes of an upload, once
    GET  /v1/files/{id}/content    a download
    GET  /v1/inputs/{id}.{ext}     an input, for the provider that works on it
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from enum import Enum

from waypost.kit import ids
from waypost.kit.crypto import hmac_sha256
from waypost.wire.file_type import EXTENSIONS

UPLOAD_S = 3600
DOWNLOAD_S = 3600
INPUT_S = 900
_PURPOSE = b"file urls"
_SIGNATURE_DIGITS = 32  # 128 bits


class UrlUse(Enum):
    UPLOAD = "upload"
    DOWNLOAD = "download"
    INPUT = "input"


class FileUrls:
    """`public_url` says where callers and providers reach us, as the settings do now; None: a caller is answered with
    the origin that it came to, and providers cannot be given a URL."""

    def __init__(self, signing_key: bytes, public_url: Callable[[], str | None]) -> None:
        self._key = hmac_sha256(signing_key, _PURPOSE)
        self._public_url = public_url

    @property
    def public_url(self) -> str | None:
        """Without a slash at its end."""
        return self._public_url()

    def url(self, use: UrlUse, file_id: bytes, *, expires_s: int, origin: str = "", content_type: str = "") -> str:
        """Valid until `expires_s`, in Unix seconds. `origin` is used where no `public_url` is set."""
        name = ids.text("file", file_id)
        if use is UrlUse.INPUT:
            path = f"/v1/inputs/{name}.{EXTENSIONS.get(content_type, 'bin')}"
        else:
            path = f"/v1/files/{name}/content"
        query = f"expires={expires_s}&signature={self._signature(use, file_id, expires_s)}"
        return f"{self.public_url or origin}{path}?{query}"

    def is_valid(self, use: UrlUse, file_id: bytes, query: Mapping[str, str], now_s: int) -> bool:
        """Whether the query is one that `url` made for this use of this file, and its time is not over."""
        text, signature = query.get("expires", ""), query.get("signature", "")
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and signature.isascii()):
            return False
        expected = self._signature(use, file_id, int(text))
        return hmac.compare_digest(expected, signature) and now_s < int(text)

    def _signature(self, use: UrlUse, file_id: bytes, expires_s: int) -> str:
        message = b"%b|%b|%d" % (use.value.encode(), file_id.hex().encode(), expires_s)
        return hmac_sha256(self._key, message).hex()[:_SIGNATURE_DIGITS]
