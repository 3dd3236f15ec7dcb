"""What the head of a request has to say before its body is read, and the header lines of ours that answers carry."""

from __future__ import annotations

from waypost.gateway.endpoints import COUNT_MESSAGE_TOKENS, chat_endpoint, gemini_call
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.transport.exchange import Exchange

_JSON = b"application/json"
READS = ("GET", "HEAD")
ON_DISCONNECT = b"x-on-disconnect"
OUTLIVES = b"complete"
"""In that header: the answer goes on to its end, and is paid, when the caller leaves. Without the word it stops."""


def request_header(request_id: bytes, dialect: str = "") -> bytes:
    shown = ids.text("req", request_id).encode()
    if dialect == "anthropic":  # whose SDKs look for it under this name
        return b"x-request-id: %b\r\nrequest-id: %b\r\n" % (shown, shown)
    return b"x-request-id: %b\r\n" % shown


def id_headers(execution_id: bytes, dialect: str) -> bytes:
    h = execution_id.hex()
    uuid = f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"  # as `ids.text`, once for both
    if dialect == "anthropic":
        return f"x-request-id: req_{uuid}\r\nrequest-id: req_{uuid}\r\nx-execution-id: exec_{uuid}\r\n".encode()
    return f"x-request-id: req_{uuid}\r\nx-execution-id: exec_{uuid}\r\n".encode()


def expect_method(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, f"Use {' or '.join(methods)}.")


def methods_of(path: str) -> bytes:
    is_written_to = path == COUNT_MESSAGE_TOKENS or chat_endpoint(path) or gemini_call(path)
    return b"POST" if is_written_to else ", ".join(READS).encode()


def expect_images(other_bytes: int, bytes_max: int) -> None:
    """Of a body that is as long as only one with images may be: 413 when it is not they that make it long."""
    if other_bytes > bytes_max:
        told = f"{ErrorCode.PAYLOAD_TOO_LARGE.message} Beside the images in it, it may have {bytes_max:,} bytes."
        raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told)


def expect_json(exchange: Exchange) -> None:
    encoding = exchange.headers.get(b"content-encoding", b"identity")
    content_type = exchange.headers.get(b"content-type", _JSON)
    if content_type != _JSON:
        content_type = content_type.partition(b";")[0].strip().lower()
    if content_type != _JSON:
        raise Refusal(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send JSON with the header 'Content-Type: application/json'.")
    if encoding.lower() != b"identity":
        raise Refusal(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
