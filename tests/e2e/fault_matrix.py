"""Every fault of a provider, at every phase, plain and streamed, and what is expected of it.

`test_faults.py` runs each case; `./run python -m tests.e2e.fault_matrix` writes the table into
`docs/reference/provider-faults.md`, and a test holds the page to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from waypost.simulator.fault import BEFORE_CONNECT, KINDS, PHASES

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/provider-faults.md"
_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "usage": tuple(
        {"value": value} for value in ("missing", "null", "zero", "negative", "huge", "overflow", "text", "float")
    ),
    "encoding": ({"encoding": "br"}, {"encoding": "zstd"}, {"encoding": "gzip"}),
    "bomb": ({"encoding": "gzip"}, {"encoding": "deflate"}),
    "wrong_content_length": ({"value": "short"}, {"value": "long"}),
    "nan": ({"value": "NaN"}, {"value": "-Infinity"}),
    "line_ends": tuple({"value": value} for value in ("mix", "crlf", "cr", "lf")),
    "redirect": ({"status": 302}, {"status": 307}),
    "status": (
        *({"status": status} for status in (400, 401, 402, 403, 404, 408, 413, 422)),
        *({"status": 429, "retry_after": told} for told in ("", "11", "0", "-5", "99999999999", "soon")),
        *({"status": status} for status in (500, 502, 503, 504, 529)),
    ),
}
# Faults on the way to a provider, which the simulator is the wrong place for: what stands at its address.
PLACES = {
    "dns": "its name does not resolve",
    "no_syn_ack": "connections are neither taken nor refused",
    "tls_expired": "its certificate has expired",
    "tls_wrong_host": "its certificate is for another name",
    "tls_self_signed": "nobody vouches for its certificate",
    "tls_stall": "the TLS handshake is never answered",
    "tls_alert": "the TLS handshake is answered with an alert",
    "tls_plain": "it answers the TLS handshake in plain HTTP",
}
# A provider with these faults has still said everything, and said that it was everything.
_WHOLE = {
    *("continue_100", "many_headers", "usage", "duplicate_usage", "early_usage", "line_ends", "bom", "split_utf8"),
    *("byte_by_byte", "comment_flood", "no_done", "two_done", "event_after_done"),
}
_CODES = {
    "silence": "GENERATION_TIMEOUT",
    "slow": "GENERATION_TIMEOUT",
    "black_hole": "GENERATION_TIMEOUT",
} | dict.fromkeys(("echo_secret", "json_error_200"), "INPUT_VALIDATION_ERROR")
_STATUS_CODES = {
    **dict.fromkeys((400, 413, 422), "INPUT_VALIDATION_ERROR"),
    **dict.fromkeys((401, 402, 403, 404, 502), "MODEL_UNAVAILABLE"),
    **dict.fromkeys((408, 504), "GENERATION_TIMEOUT"),
    **dict.fromkeys((429, 503, 529), "MODEL_OVERLOADED"),
    500: "GENERATION_FAILED",
}
HTTP = {
    "INPUT_VALIDATION_ERROR": 400,
    "GENERATION_FAILED": 500,
    "MODEL_UNAVAILABLE": 503,
    "MODEL_OVERLOADED": 503,
    "GENERATION_TIMEOUT": 504,
}
_EARLY = (BEFORE_CONNECT, "after_request", "after_headers")
ALL_PHASES = (BEFORE_CONNECT, *PHASES)


class Case(msgspec.Struct, frozen=True):
    """One fault at one phase of one sort of call."""

    kind: str
    phase: str
    is_stream: bool
    variant: dict[str, Any]

    @property
    def fault(self) -> str:
        """The kind, and which variant of it."""
        parts = [self.kind, *(str(value) for value in self.variant.values() if value)]
        return " ".join(parts)

    @property
    def slug(self) -> str:
        words = "-".join((self.fault.replace(" ", "-"), self.phase, "stream" if self.is_stream else "plain"))
        return words.replace("--", "-")

    @property
    def is_whole(self) -> bool:
        """Whether the caller gets a success, because the provider earned it."""
        if self.kind in _WHOLE:
            return True
        if self.kind == "encoding":
            return self.variant["encoding"] in ("br", "zstd")  # a label only
        if self.kind == "wrong_content_length":
            return self.is_stream and self.variant == {"value": "long"}  # cut off after [DONE]
        # The last of two equal keys counts, here an event without choices; and what the usage says is only doubted.
        is_spared = self.kind == "overflow" and self.phase == "before_usage"
        return self.is_stream and (is_spared or self.kind == "duplicate_keys")

    @property
    def is_delivered(self) -> bool:
        """Whether content reaches the caller before it breaks off."""
        if self.is_whole or self.kind in PLACES:
            return False
        if self.kind in ("wrong_content_length", "no_finish_reason"):
            return self.is_stream
        return self.is_stream and self.phase not in _EARLY

    @property
    def codes(self) -> tuple[str, ...]:
        """The error codes that it may come to; none when the answer is whole."""
        if self.is_whole:
            return ()
        if self.kind == "status":
            return (_STATUS_CODES[self.variant["status"]],)
        if self.kind == "refuse" or self.kind in PLACES:
            return ("MODEL_UNAVAILABLE",)
        if self.kind in ("reset", "half_close") and self.phase in (BEFORE_CONNECT, "after_request"):
            # On a kept connection nobody can tell whether the provider has seen the request.
            return ("GENERATION_FAILED", "MODEL_UNAVAILABLE")
        return (_CODES.get(self.kind, "GENERATION_FAILED"),)

    @property
    def payer(self) -> str:
        if self.is_whole:
            return "nobody" if self.variant == {"value": "zero"} else "caller"
        return "caller, for what came" if self.is_delivered else "nobody"

    @property
    def circuit(self) -> str:
        """What the circuit and the credential make of it."""
        if self.is_whole:
            return "success"
        if self.kind == "status" and self.variant["status"] in (401, 402, 403, 404, 429):
            return "credential rests"
        if self.kind == "status" and self.variant["status"] < 500:
            return "nothing"
        return "nothing" if self.codes == ("INPUT_VALIDATION_ERROR",) else "failure"


def cases() -> list[Case]:
    """All of them, those of one fault together."""
    simulated = [
        Case(kind, phase, is_stream, variant)
        for kind, what in KINDS.items()
        if not what.is_of_jobs
        for variant in _VARIANTS.get(kind, ({},))
        for phase in sorted(what.phases, key=ALL_PHASES.index)
        for is_stream in ((True,) if what.is_stream_only else (False, True))
    ]
    return simulated + [Case(kind, BEFORE_CONNECT, is_stream, {}) for kind in PLACES for is_stream in (False, True)]


_HEAD = """# Faults of providers

What a caller gets, who pays, and what the circuit makes of it, for every fault that a provider of kind `openai` can
have, at every phase of a call. Written by `./run python -m tests.e2e.fault_matrix`;
`./run test tests/e2e/test_faults.py` runs every line: each is booked once, frees its connection, logs nothing of what
was said, and no success is invented.

The lines are of a model with one route and a circuit that opens at the first failure. With more routes, failures before
the first word go to [the next one](../operating/when-a-provider-fails.md), except what is the caller's own.

*200, then …*: words came, then an error in the stream. **Payer**: of the caller's money; what a provider bills for what
nobody got, the house bears.

| fault | phase | plain | streamed | payer | circuit |
|---|---|---|---|---|---|
"""


def render() -> str:
    """The page."""
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows())
    places = "".join(f"| `{name}` | {says} |\n" for name, says in PLACES.items())
    return (
        f"{_HEAD}{rows}\n## On the way to a provider\n\nThe other faults are those of the "
        f"[simulator](simulator.md#faults).\n\n| fault | |\n|---|---|\n{places}"
    )


def _rows() -> Iterator[tuple[str, ...]]:
    for (fault, phase), group in groupby(cases(), key=lambda case: (case.fault, case.phase)):
        both = {case.is_stream: case for case in group}
        shown = [_shown(both[is_stream]) if is_stream in both else "" for is_stream in (False, True)]
        payers = list(dict.fromkeys(case.payer for case in both.values()))
        circuits = list(dict.fromkeys(case.circuit for case in both.values()))
        yield f"`{fault}`", phase, *shown, " / ".join(payers), " / ".join(circuits)


def _shown(case: Case) -> str:
    if case.is_whole:
        return "200"
    told = " or ".join(case.codes)
    return f"200, then {told}" if case.is_delivered else f"{HTTP[case.codes[0]]} {told}"


if __name__ == "__main__":
    PAGE.write_text(render())
    print(f"{len(cases())} cases: {PAGE}")
