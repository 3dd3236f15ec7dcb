"""A provider kind: how a call to one sort of provider is built and how its answers are read. Sans-io.

Refusal        the caller's request is at fault        (kit.errors)
UpstreamError  the provider said no, mapped to a code
BadAnswer      the provider's answer cannot be taken for one
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from waypost.kit.codec import has_more_values_than
from waypost.kit.errors import ErrorCode
from waypost.wire.canonical import Chunk, Completion, Usage
from waypost.wire.conversation import Conversation
from waypost.wire.request import COUNTED_FROM_BYTES, ELEMENTS_MAX, VALUES_MAX, ChatRequest

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,8192}")
_API_VERSION = re.compile(r"[A-Za-z0-9.-]{0,64}")
_HOST = re.compile(rb"[A-Za-z0-9._\-:\[\]]{1,512}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%@:+-]{1,256}){0,16}")
# What a call says about its own framing and credential is not for configuration to repeat.
_OURS = frozenset(
    (
        *("accept-encoding", "authorization", "connection", "content-length", "content-type", "expect", "host"),
        *("te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
    )
)


class RequestChanges(Protocol):
    """Adjustments of top-level request fields for one deployment: rename, then drop, then set."""

    @property
    def set(self) -> Mapping[str, msgspec.Raw]: ...
    @property
    def rename(self) -> Mapping[str, str]: ...
    @property
    def drop(self) -> Sequence[str]: ...


class ErrorRule(Protocol):
    """One configured mapping of a provider's error; every part that is given must match."""

    @property
    def code(self) -> ErrorCode: ...
    @property
    def status(self) -> int | None: ...
    @property
    def provider_code(self) -> str | None: ...
    @property
    def provider_type(self) -> str | None: ...
    @property
    def message_contains(self) -> str | None: ...


class Target(msgspec.Struct, frozen=True):
    """Where calls of one deployment go. Made from configuration alone: no request field can change any of it.

    Raises ValueError when a part could break out of its place in the request's head.
    """

    host_header: bytes
    path_prefix: str  # "/v1"
    credential: str  # "" = the provider wants none
    upstream_model: str
    headers: tuple[tuple[str, str], ...] = ()
    changes: RequestChanges | None = None
    expose: tuple[str, ...] = ()
    error_rules: tuple[ErrorRule, ...] = ()
    provider: str = ""  # its id in the catalogue: what is signed for its accounts comes back to them only
    credential_header: str = ""  # that carries the credential, instead of `authorization: Bearer`
    api_version: str = ""  # for the query, where the provider wants one
    head: bytes = b""  # the constant head of a call, once a kind has prepared the target
    model: msgspec.Raw | None = None  # its name as JSON, likewise where a call's body has it

    def __post_init__(self) -> None:
        if _HOST.fullmatch(self.host_header) is None:
            raise ValueError("the host is not a valid one")
        if _PATH.fullmatch(self.path_prefix) is None or ".." in self.path_prefix:
            raise ValueError("the path of the base URL is not a valid one")
        if self.credential_header and _HEADER_NAME.fullmatch(self.credential_header) is None:
            raise ValueError("the name of the credential's header is not a valid one")
        if _API_VERSION.fullmatch(self.api_version) is None:
            raise ValueError("the API version is not a valid one")
        if _HEADER_VALUE.fullmatch(self.credential) is None:
            raise ValueError("the credential holds characters that a header cannot carry")
        for name, value in self.headers:
            if _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
                raise ValueError("a configured header's name or value is not a valid one")
            if name.lower() in _OURS:
                raise ValueError(f"the header {name.lower()} is not configurable")

    def __repr__(self) -> str:
        return f"<target {self.host_header.decode()}{self.path_prefix}>"  # never the credential


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A provider's refusal or breakdown, as the caller may learn of it. The provider's own words are not kept."""

    code: ErrorCode
    retry_after_s: float | None = None
    is_our_credential: bool = False  # the operator has to act: the provider refused our key or our account
    is_our_model_name: bool = False  # the operator has to act: the provider knows no such model
    is_rate_limit: bool = False  # of our credential at the provider: another one, or the same later, may be served

    @property
    def is_ours(self) -> bool:
        """Whether the provider refused what we are configured to send, and not what the caller asked."""
        return self.is_our_credential or self.is_our_model_name


class UpstreamError(Exception):
    """The provider reported a failure where an answer should have been."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code.name)
        self.failure = failure


class BadAnswer(Exception):
    """The answer is malformed, truncated, incomplete or of the wrong types. Says nothing about its text."""


def check_values(body: bytes) -> None:
    """Raises BadAnswer for a whole answer of more values than a request may have: read, it could take gigabytes."""
    if len(body) > COUNTED_FROM_BYTES and has_more_values_than(body, VALUES_MAX, others_max=ELEMENTS_MAX):
        raise BadAnswer


class StreamReader(Protocol):
    """Reads one streamed answer."""

    answer_id: str  # the provider's name for the answer, "" while it has told none; its bill may have it
    unknown_fields: int  # fields outside the closed set in the first event
    output_bytes: int  # UTF-8 bytes of content, reasoning, refusal and tool arguments so far
    is_done: bool  # the provider said that this was all

    @property
    def usage(self) -> Usage | None:
        """The last usage reported, in disjoint classes; values may be unbelievable (`metering.usage` decides)."""

    @property
    def is_broken(self) -> bool:
        """Whether the answer cannot go on; `end` raises why."""

    def feed(self, data: bytes) -> list[Chunk]:
        """What these bytes add. Raises BadAnswer, UpstreamError; when something was said before the error, it returns
        that and is broken."""

    def end(self) -> None:
        """The body ended. Raises BadAnswer unless every choice finished, and whatever broke the answer."""


class ProviderKind(Protocol):
    format: str  # the callers' format that it speaks (wire.formats): such requests go through as they came

    def losses(self, conversation: Conversation) -> tuple[str, ...]:
        """What of a conversation in another format it cannot carry, by names that mean something to the caller."""

    def prepare(self, target: Target) -> Target:
        """The same target with its constant head bytes made, once for all of its calls."""

    def call(self, request: ChatRequest, target: Target, *, output_tokens_max: int | None) -> tuple[bytes, bytes]:
        """Head and body of the call. The head is request line and headers, each ending in CRLF, without
        content-length and the blank line. `output_tokens_max` is the bound where the caller gave none
        or a higher one."""

    def completion(
        self, headers: Mapping[bytes, bytes], body: bytes, *, n: int = 1, target: Target | None = None
    ) -> tuple[Completion, Usage | None]:
        """A whole answer with status 200. Raises BadAnswer, UpstreamError."""

    def failure(self, status: int, headers: Mapping[bytes, bytes], body: bytes, rules: Sequence[ErrorRule]) -> Failure:
        """What an answer with any other status means."""

    def stream(self, *, n: int = 1, target: Target | None = None) -> StreamReader: ...
