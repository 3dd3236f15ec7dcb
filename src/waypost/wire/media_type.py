"""Data URLs (RFC 2397) with base64 content, as callers inline media in."""

from __future__ import annotations

from waypost.kit.errors import invalid

_BASE64 = ";base64"
_LONG_CHARS = 1 << 20


def split_data_url(url: str) -> tuple[str, str]:
    """(media type, base64 data) of `data:image/png;base64,…`; ("", "") for any other URL."""
    if not url.startswith("data:"):
        return "", ""
    head, comma, data = url[5:].partition(",")
    if not comma or not head.endswith(_BASE64):
        return "", ""
    return head[: -len(_BASE64)].partition(";")[0], data


def inline_bytes(data: str, param: str) -> int:
    """How many bytes the data of an image takes up within `param`, as base64 or a data URL. Raises Refusal 400 for long
    data that is none: a single character beyond ASCII in it, which may stand as a question mark here, would make each
    of its characters take four bytes wherever it is read again."""
    if len(data) > _LONG_CHARS and ("?" in data or not data.isascii()):
        raise invalid(param, f"An image in '{param}' is not in base64.")
    return len(data)


def is_inline_text(file: object) -> bool:
    """Whether a file, as OpenAI's formats inline it, is a text: then it has no more tokens than bytes."""
    if not isinstance(file, dict) or file.get("file_id") is not None or file.get("file_url") is not None:
        return False
    data = file.get("file_data")
    return isinstance(data, str) and data.startswith("data:text/")


def data_url(media_type: str, data: str) -> str:
    return f"data:{media_type};base64,{data}"
