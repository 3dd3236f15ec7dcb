"""The keyring under one pepper and under two."""

from __future__ import annotations

import pytest

from waypost.kit.errors import Refusal
from waypost.tenancy import keyring as keyrings
from waypost.tenancy.api_key import ApiKey, Scope, assemble
from waypost.tenancy.keyring import Keyring
from waypost.tenancy.pepper import Pepper, Peppers, peppers_of

OLD, NEW = Pepper(1, b"o" * 32), Pepper(2, b"n" * 32)
TEXT = assemble(b"t" * 32)


def key_under(pepper: Pepper, text: str = TEXT, valid_until_ms: int | None = None) -> ApiKey:
    return ApiKey(b"k" * 16, b"g" * 16, pepper.digest(text), Scope.FULL, valid_until_ms=valid_until_ms)


def knows(keyring: Keyring, text: str = TEXT) -> bool:
    try:
        keyring.authenticate({b"authorization": b"Bearer " + text.encode()}, now_ms=1000)
    except Refusal:
        return False
    return True


def keyring_of(peppers: Peppers, *api_keys: ApiKey) -> Keyring:
    keyring = Keyring(peppers)
    keyring.adopt(api_keys, 1, 0)
    return keyring


def test_a_key_of_the_pepper_before_is_known_and_told_once_to_be_moved() -> None:
    keyring = keyring_of(Peppers(NEW, OLD), key_under(OLD))
    assert knows(keyring)
    assert keyring.take_aged() == {OLD.digest(TEXT): NEW.digest(TEXT)}
    assert keyring.take_aged() == {}
    assert knows(keyring)
    assert keyring.take_aged() == {OLD.digest(TEXT): NEW.digest(TEXT)}, "it has not moved, and is used again"
    keyring.adopt([key_under(NEW)], 2, 0)
    assert knows(keyring)
    assert keyring.take_aged() == {}


def test_a_key_is_unknown_under_a_pepper_that_is_not_in_force() -> None:
    assert not knows(keyring_of(Peppers(NEW), key_under(OLD)))
    assert not knows(keyring_of(Peppers(OLD), key_under(NEW)))
    assert not knows(keyring_of(Peppers(NEW, OLD), key_under(OLD)), assemble(b"u" * 32))


def test_a_key_that_has_ended_is_refused_under_either_pepper() -> None:
    for pepper in (OLD, NEW):
        assert not knows(keyring_of(Peppers(NEW, OLD), key_under(pepper, valid_until_ms=1000)))


def test_keys_to_be_moved_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [assemble(bytes([number]) * 32) for number in range(keyrings.AGED_MAX // 100)]
    monkeypatch.setattr(keyrings, "AGED_MAX", len(texts) - 2)
    keyring = keyring_of(Peppers(NEW, OLD), *(key_under(OLD, text) for text in texts))
    assert all(knows(keyring, text) for text in texts), "that one waits to be moved keeps nobody out"
    assert len(keyring.take_aged()) == len(texts) - 2


def test_what_is_remembered_of_a_pepper_that_was_away_is_not_believed() -> None:
    keyring = keyring_of(Peppers(NEW, OLD), key_under(OLD), key_under(NEW))
    keyring.use(Peppers(NEW))
    assert keyring.version == 0, "all keys are asked for"
    keyring.adopt([key_under(NEW)], 1, 0)
    keyring.adopt([key_under(NEW, valid_until_ms=0)], 2, 0)  # revoked: told by the digest that is left
    keyring.use(Peppers(NEW, OLD))
    keyring.adopt([], 2, 0)
    assert not knows(keyring)


def test_peppers_are_told_by_their_versions() -> None:
    found = peppers_of({9: b"a", 10: b"b"})
    assert [each.version for each in found.all] == [10, 9]
    assert [each.version for each in peppers_of({3: b"a"}).all] == [3]
