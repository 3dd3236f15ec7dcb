from __future__ import annotations

import copy
import json
import pickle

import msgspec
import pytest

from waypost.kit.payload import Payload

SECRET = b"canary"


def test_a_payload_shows_its_size_only() -> None:
    payload = Payload(SECRET)

    assert {str(payload), repr(payload), f"{payload}", f"{payload!r:>5}", f"{[payload]}"} == {
        "<payload of 6 bytes>",
        "[<payload of 6 bytes>]",
    }
    assert len(payload) == 6
    assert payload.unwrap() == SECRET


def test_a_payload_cannot_be_written_anywhere_by_accident() -> None:
    payload = Payload(SECRET)
    for write in (pickle.dumps, copy.deepcopy, json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError):
            write(payload)
