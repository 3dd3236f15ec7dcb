"""Faults that tests arm: what can go wrong at a provider, when, for whom and how often.

`KINDS` is the whole table: every kind with the phases it can happen in (the first is the default), its parameters,
and what the caller sees. A fault hits the first `count` matching requests (0: until it is cleared), or every
`every`-th of them; the fault armed first wins, and a request suffers one fault at most. A storm is `count: 0`,
flapping is `every: 2`. A fault before_connect with `count: 0` also shuts out new connections to the control paths:
clear it over the connection that armed it, or in-process.

Not simulated: DNS and TLS faults, for which the simulator is the wrong place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from waypost.kit.values import replace
from waypost.simulator.reply import Stage

BEFORE_CONNECT = "before_connect"
# Where a phase begins: before the first write of this stage or of a later one.
PHASES: dict[str, Stage] = {
    "after_request": Stage.THINKING,
    "after_headers": Stage.OPENING,
    "after_first_chunk": Stage.CONTENT,
    "mid": Stage.SECOND_HALF,
    "before_usage": Stage.USAGE,
    "after_usage": Stage.DONE,
}
_ANSWERING = tuple(PHASES)
_BODY = ("after_headers", "after_first_chunk", "mid", "before_usage", "after_usage")
_LATE_BODY = ("mid", "after_headers", "after_first_chunk", "before_usage", "after_usage")
_JSON = _LATE_BODY[:-1]
_WHOLE = ("after_request",)


class Kind(msgspec.Struct, frozen=True):
    says: str
    phases: tuple[str, ...]
    params: tuple[str, ...] = ()
    is_stream_only: bool = False
    is_of_jobs: bool = False  # of providers of jobs alone; a model that answers at once has no such moment


KINDS: dict[str, Kind] = {
    # Connections
    "refuse": Kind(
        "connects are refused for `for_s` seconds (1), idle connections are closed", (BEFORE_CONNECT,), ("for_s",)
    ),
    "reset": Kind("RST", (*_ANSWERING, BEFORE_CONNECT)),
    "half_close": Kind("FIN; the simulator reads on until the caller closes", (*_ANSWERING, BEFORE_CONNECT)),
    "black_hole": Kind("accepted, and never a byte", (BEFORE_CONNECT,)),
    "silence": Kind("nothing more: for `for_s` seconds, then it goes on; 0: for ever", _ANSWERING, ("for_s",)),
    "slow": Kind("`bytes_per_s` (1) from here on", _ANSWERING, ("bytes_per_s",)),
    # Answers that are no completion
    "status": Kind(
        "an error in the provider's style: `status` (500), `retry_after` as given, `message`, `type`, `code`, `param`",
        _WHOLE,
        ("status", "retry_after", "retry_after_ms", "message", "type", "code", "param"),
    ),
    "echo_secret": Kind(
        "an error whose text and headers repeat prompt, credential, Host and model; from after_headers on an event",
        (*_WHOLE, *_BODY),
        ("status",),
    ),
    "empty_200": Kind("200 with an empty body", _WHOLE),
    "html_200": Kind("200 with a page", _WHOLE),
    "json_error_200": Kind("200 whose JSON is an error", _WHOLE, ("message", "type", "code")),
    "redirect": Kind("`status` (307) to `location`", _WHOLE, ("status", "location")),
    "unaccepted": Kind(
        "RST, and the job that was asked for is not made; of providers of jobs alone", _WHOLE, is_of_jobs=True
    ),
    "continue_100": Kind("`count_of` (1) interim 100 responses before the answer", _WHOLE, ("count_of",)),
    # HTTP framing
    "gigantic_header": Kind("a header of `bytes` (100000)", _WHOLE, ("bytes",)),
    "many_headers": Kind("`count_of` (1000) headers", _WHOLE, ("count_of",)),
    "wrong_content_length": Kind(
        "`value` short: half of the truth; long: 100 bytes more, then FIN", _WHOLE, ("value",)
    ),
    "truncated_chunk": Kind("an HTTP chunk that ends early, then FIN", _LATE_BODY),
    "bad_chunk_size": Kind("an HTTP chunk whose size is no number, then FIN", _LATE_BODY),
    "bomb": Kind("`encoding` (gzip | deflate) of `bytes` (16 MiB) blanks", _WHOLE, ("encoding", "bytes")),
    "encoding": Kind(
        "the answer labelled `encoding` (br, zstd: label only; gzip, deflate: really so)", _WHOLE, ("encoding",)
    ),
    # JSON
    "truncated_json": Kind("half of the JSON: of the body, or of one event", _JSON),
    "nan": Kind("`value` (NaN) instead of a number in the body, or in one event", _JSON, ("value",)),
    "overflow": Kind("a number beyond 64 bits", _JSON),
    "duplicate_keys": Kind("`choices` a second time, empty", _JSON),
    "deep_json": Kind("an array `depth` (100000) deep", _JSON, ("depth",)),
    "wrong_types": Kind("`choices` is a text", _JSON),
    # What is told
    "usage": Kind("`value`: missing, null, zero, negative, huge, overflow, text, float", _WHOLE, ("value",)),
    "duplicate_usage": Kind("the usage twice", _WHOLE, (), is_stream_only=True),
    "early_usage": Kind("the usage here, and not at the end", ("after_headers", "after_first_chunk", "mid"), (), True),
    "no_finish_reason": Kind("no choice tells how it finished", _WHOLE),
    # Server-sent events
    "error_event": Kind(
        "an error, then the end without [DONE]", _LATE_BODY, ("status", "message", "type", "code"), True
    ),
    "garbage_event": Kind("an event that is not JSON, then the stream goes on", _LATE_BODY, (), True),
    "line_ends": Kind("`value`: crlf, cr, lf, mix", _WHOLE, ("value",), True),
    "bom": Kind("a byte order mark first", _WHOLE, (), True),
    "split_utf8": Kind("segments and HTTP chunks end inside characters", _WHOLE, (), True),
    "byte_by_byte": Kind("every byte an HTTP chunk of its own", _WHOLE, (), True),
    "comment_flood": Kind("`count_of` (10000) comments", _BODY, ("count_of",), True),
    "endless_line": Kind("one line of `bytes` (4 MiB), then FIN", _LATE_BODY, ("bytes",), True),
    "no_blank_lines": Kind("events are not separated", _WHOLE, (), True),
    "no_done": Kind("no [DONE]", _WHOLE, (), True),
    "two_done": Kind("[DONE] twice", _WHOLE, (), True),
    "event_after_done": Kind("more text after [DONE]", _WHOLE, (), True),
}

_VALUES = {
    "wrong_content_length": ("short", "long"),
    "nan": ("NaN", "Infinity", "-Infinity"),
    "usage": ("missing", "null", "zero", "negative", "huge", "overflow", "text", "float"),
    "line_ends": ("mix", "crlf", "cr", "lf"),
}
_COMMON = ("kind", "phase", "model", "style", "count", "every")
Natural = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=4 << 30)]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One armed fault. The fields after `every` are parameters; `KINDS` tells which kind takes which."""

    kind: str
    phase: str = ""
    model: str = ""  # the upstream model; empty: any
    style: str = ""  # alpha, beta, gamma; empty: any; of providers of jobs also replicate-status, fal-result, …-cancel
    count: Natural = 1
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    retry_after: str = ""
    retry_after_ms: str = ""
    message: str = ""
    type: str = ""
    code: str = ""
    param: str = ""
    location: str = ""
    value: str = ""
    encoding: str = ""
    bytes: Amount | None = None
    count_of: Amount | None = None
    depth: Amount | None = None
    for_s: Annotated[float, msgspec.Meta(ge=0, le=600)] | None = None
    bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    @property
    def stage(self) -> Stage:
        return PHASES[self.phase]


class BadFault(Exception):
    """A fault that cannot be armed; the text says why."""


class FaultBox:
    """The faults that are armed, and how often each has been asked and has hit."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def arm(self, fault: Fault) -> None:
        """Raises BadFault for what `KINDS` does not have."""
        self._armed.append(_Armed(checked(fault)))

    def clear(self) -> None:
        self._armed.clear()

    @property
    def armed(self) -> list[dict[str, object]]:
        """Each fault's fields that differ from the defaults, with `hits`."""
        return [{**_shown(armed.fault), "hits": armed.hits} for armed in self._armed]

    def take_for_connection(self) -> Fault | None:
        return self._take(lambda fault: fault.phase == BEFORE_CONNECT)

    def take_for_request(self, *, model: str, style: str, is_stream: bool) -> Fault | None:
        def matches(fault: Fault) -> bool:
            return (
                fault.phase != BEFORE_CONNECT
                and fault.model in ("", model)
                and fault.style in ("", style)
                and (is_stream or not KINDS[fault.kind].is_stream_only)
            )

        return self._take(matches)

    def take_for_style(self, style: str) -> Fault | None:
        """Of faults that name the style, and no others."""
        return self._take(lambda fault: fault.style == style)

    def _take(self, matches: Callable[[Fault], bool]) -> Fault | None:
        for armed in self._armed:
            fault = armed.fault
            if (fault.count and armed.hits >= fault.count) or not matches(fault):
                continue
            armed.asked += 1
            if armed.asked % fault.every == 0:
                armed.hits += 1
                return fault
        return None


class _Armed(msgspec.Struct):
    fault: Fault
    asked: int = 0
    hits: int = 0


def checked(fault: Fault) -> Fault:
    """The fault with its default phase and value filled in. Raises BadFault."""
    kind = KINDS.get(fault.kind)
    if kind is None:
        raise BadFault(f"no such kind of fault: {fault.kind}; there are {', '.join(KINDS)}")
    fault = replace(fault, phase=fault.phase or kind.phases[0])
    if fault.phase not in kind.phases:
        raise BadFault(f"{fault.kind} happens {' or '.join(kind.phases)}, not {fault.phase}")
    strangers = [name for name in _shown(fault) if name not in (*_COMMON, *kind.params)]
    if strangers:
        raise BadFault(f"{fault.kind} does not take {', '.join(strangers)}")
    if fault.phase == BEFORE_CONNECT and (fault.model or fault.style):
        raise BadFault("before a request is read nobody knows its model or style")
    values = _VALUES.get(fault.kind)
    if values is not None:
        fault.value = fault.value or values[0]
        if fault.value not in values:
            raise BadFault(f"the value of {fault.kind} is one of {', '.join(values)}")
    return fault


def _shown(fault: Fault) -> dict[str, object]:
    plain = Fault(kind="")
    return {name: value for name in fault.__struct_fields__ if (value := getattr(fault, name)) != getattr(plain, name)}
