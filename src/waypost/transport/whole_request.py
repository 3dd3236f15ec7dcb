"""Whether bytes are one whole request and nothing else, told by llhttp without reading any of it. Sans-io."""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

_BYTES_MAX: Final = 64 * 1024
_VERSION: Final = b" HTTP/1.1\r\n"


class WholeRequest:
    """One for any number of connections: what is not whole leaves nothing behind."""

    __slots__ = ("_body_bytes", "_is_kept", "_parser")

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._body_bytes = 0
        self._is_kept = False

    def start(self, data: bytes) -> bytes:
        """Method and target, such as `POST /v1/x`, when `data` is a request of HTTP/1.1, in the form that llhttp's
        strict mode wants, with all of its body as it is, not in chunks, and its connection is to be kept; else b"".
        What `http1_request` wants of it beyond that is not looked at."""
        line_end = data.find(_VERSION)
        if line_end < 0 or len(data) > _BYTES_MAX:
            return b""
        self._body_bytes = 0
        self._is_kept = False
        parser = self._parser
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._is_kept = False
        # In chunks it would be shorter than what arrived, and more than one would have a head among that.
        if self._is_kept and self._body_bytes == len(data) - data.find(b"\r\n\r\n") - 4:
            return data[:line_end]
        self._parser = HttpRequestParser(self)
        return b""

    # What llhttp calls.

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)

    def on_message_complete(self) -> None:
        self._is_kept = self._parser.should_keep_alive()
