from __future__ import annotations

import base64

import pytest

from waypost.wire.canonical import Signature
from waypost.wire.envelope import Envelope

ENVELOPE = Envelope(b"s" * 32)
ORG = b"o" * 16


@pytest.mark.parametrize("value", ["", "EqQBCgIYAg==", "s" * 4_000, "ends in zeros\0\0", "\x01"])
def test_an_envelope_gives_back_what_was_sealed_into_it(value: str) -> None:
    signature = Signature("anthropic", value)

    assert ENVELOPE.open(ENVELOPE.seal(signature, ORG), ORG) == signature


def test_an_envelope_opens_for_its_organisation_alone() -> None:
    assert ENVELOPE.open(ENVELOPE.seal(Signature("anthropic", "EqQB"), ORG), b"p" * 16) is None


@pytest.mark.parametrize(
    "foreign", ["", "wp1", "wp1AAAA", "wp1ü", "wp1" + "A" * 400, "EqQBCgIYAg==", "wp2" + "A" * 400]
)
def test_what_we_did_not_seal_is_foreign(foreign: str) -> None:
    assert ENVELOPE.open(foreign, ORG) is None


def test_a_changed_envelope_is_foreign() -> None:
    sealed = ENVELOPE.seal(Signature("anthropic", "EqQB"), ORG)
    for at in range(3, len(sealed) - 1):
        other = "A" if sealed[at] != "A" else "B"
        assert ENVELOPE.open(sealed[:at] + other + sealed[at + 1 :], ORG) is None


def test_neither_bytes_nor_length_tell_whose_signature_it_is() -> None:
    one = ENVELOPE.seal(Signature("anthropic", "a" * 80), ORG)
    other = ENVELOPE.seal(Signature("gemini", "a" * 120), ORG)

    assert len(one) == len(other)
    assert "anthropic" not in one
    assert one != ENVELOPE.seal(Signature("anthropic", "a" * 80), ORG)


def test_a_seal_survives_an_sdk_that_takes_it_for_bytes_and_writes_it_in_another_alphabet() -> None:
    for length in (1, 250, 300, 700):
        signature = Signature("gemini", "x" * length)
        sealed = ENVELOPE.seal(signature, ORG)
        raw = base64.urlsafe_b64decode(sealed)
        assert ENVELOPE.open(base64.b64encode(raw).decode(), ORG) == signature
        assert ENVELOPE.open(base64.urlsafe_b64encode(raw).decode(), ORG) == signature
