"""A style is a provider's personality: how the same answer is spelled, framed, numbered and refused.

`Style` is what the styles of every provider kind share. A kind is one module that subclasses it (`style_openai`,
`style_anthropic`, …): it reads its own kind of request into the one `ChatRequest` and spells the one `Answer`; words,
tokens, bill and faults are the same for all. A style answers one endpoint; a provider with several has several styles
of one name and prefix. A caller of the router must never be able to tell styles apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import ClassVar

import msgspec

from waypost.simulator.answer import Answer, Tokens
from waypost.simulator.directive import Directives
from waypost.simulator.reply import Headers, Piece, Stage
from waypost.simulator.request import ChatRequest

JsonObject = dict[str, object]


class Identity(msgspec.Struct, frozen=True):
    """What names one answer: 32 hexadecimal digits to make ids of, and the Unix time in seconds."""

    hex_id: str
    created_s: int
    model: str  # as asked for


class Telling(msgspec.Struct):
    """What is told of the truth. A fault may replace the usage, or leave out the end."""

    is_usage_wanted: bool
    usage: object = msgspec.UNSET  # instead of the true one, when set
    has_usage: bool = True
    has_finish_reason: bool = True
    has_done: bool = True


class Complaint(msgspec.Struct, frozen=True):
    """An error before a style spells it. `type` is "" where the kind has one for the status."""

    status: int
    message: str
    type: str = ""
    code: str | None = None
    param: str | None = None


class Style(ABC):
    """What every style can do; see each subclass for what makes it different."""

    name: str
    prefix: str  # of its paths: the path of the base URL that a client of its kind is given
    done: bytes = b""  # the last event, where it says nothing but that
    group: int = 1
    is_hex_upper: bool = False
    split: Callable[[bytes], list[bytes]] | None = None

    # Where faults in the JSON hit: a list that every answer has, a number, and the words for the two counts.
    answers_field: ClassVar[str]
    number_field: ClassVar[re.Pattern[bytes]]
    count_fields: ClassVar[tuple[str, ...]]

    # Requests. `path` has the prefix taken off.

    @abstractmethod
    def takes(self, method: str, path: str) -> bool:
        """Whether this style answers such a request with an answer of a model."""

    @abstractmethod
    def read(self, path: str, body: bytes) -> tuple[ChatRequest, Directives]:
        """Raises InvalidRequest for anything that its kind does not take, or for an unknown directive."""

    @abstractmethod
    def page(self, method: str, path: str, body: bytes, models: Sequence[str]) -> object:
        """The document at any other path, such as the list of models; a Complaint where there is none."""

    def credential(self, fields: Mapping[str, str]) -> str:
        """The key that came in the headers (by lower-case name), "" without one."""
        scheme, _, credential = fields.get("authorization", "").partition(" ")
        return credential.strip() if scheme.lower() == "bearer" else ""

    def complains(self, fields: Mapping[str, str]) -> Complaint | None:  # noqa: ARG002  most are content with any
        """What is wrong with the headers beside the credential."""
        return None

    # Spelling

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """JSON of an event."""

    def encode_document(self, value: object) -> bytes:
        """JSON of a whole body."""
        return self.encode(value)

    @abstractmethod
    def frame(self, data: bytes) -> bytes:
        """One server-sent event."""

    @abstractmethod
    def answer_id(self, identity: Identity) -> str: ...

    @abstractmethod
    def headers(self, identity: Identity, content_type: str) -> Headers: ...

    @abstractmethod
    def error_type(self, status: int) -> tuple[str, str | None]:
        """Type and code of the error that this kind of provider reports with a status."""

    @abstractmethod
    def error(self, identity: Identity, complaint: Complaint) -> tuple[str, bytes]:
        """Content type and body."""

    @abstractmethod
    def error_event(self, identity: Identity, complaint: Complaint) -> bytes:
        """A framed event that breaks a stream off."""

    @abstractmethod
    def usage(self, tokens: Tokens) -> JsonObject: ...

    @abstractmethod
    def document(self, answer: Answer, identity: Identity, telling: Telling) -> bytes:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def events(
        self, answer: Answer, identity: Identity, telling: Telling, *, first_s: float, delay_s: float
    ) -> Iterator[Piece]:
        """The stream, an event a piece; `first_s` before the first output and `delay_s` before each further one."""

    @abstractmethod
    def usage_event(self, identity: Identity, usage: object) -> bytes:
        """A framed event that tells nothing but usage."""

    @abstractmethod
    def late_event(self, identity: Identity) -> bytes:
        """A framed event with more text, for after the end."""

    def end_events(self) -> bytes:
        """What ends a stream, once more."""
        return self.done or self.frame(b"[DONE]")

    def told_usage(self, tokens: Tokens, telling: Telling) -> object:
        if not telling.has_usage:
            return msgspec.UNSET
        return self.usage(tokens) if telling.usage is msgspec.UNSET else telling.usage


def http_date(identity: Identity) -> str:
    return formatdate(identity.created_s, usegmt=True)


def stage_of(position: int, total: int) -> Stage:
    """Where in the answer an output is."""
    if position == 0:
        return Stage.FIRST
    return Stage.CONTENT if position * 2 < total else Stage.SECOND_HALF
