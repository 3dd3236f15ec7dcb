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


def is_inline_text(file: object) -> bool:
    """Whether a file, as OpenAI's formats inline it, is a text: then it has no more tokens than bytes."""
    if not isinstance(file, dict) or file.get("file_id") is not None or file.get("file_url") is not None:
        return False
    data = file.get("file_data")
    return isinstance(data, str) and data.startswith("data:text/")


def data_url(media_type: str, data: str) -> str:
    return f"data:{media_type};base64,{data}"
