"""Data URLs (RFC 2397) with base64 content, as callers inline media in."""

from __future__ import annotations

_BASE64 = ";base64"


def split_data_url(url: str) -> tuple[str, str]:
    """(media type, base64 data) of `data:image/png;base64,…`; ("", "") for any other URL."""
    if not url.startswith("data:"):
        return "", ""
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(_BASE64):
        return "", ""
    return head[: -len(_BASE64)].partition(";")[0], data


def data_url(media_type: str, data: str) -> str:
    return f"data:{media_type};base64,{data}"
