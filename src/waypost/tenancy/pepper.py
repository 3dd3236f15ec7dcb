"""The peppers: secrets of the deployment under which digests of API keys are made.

Two versions are in force at most, so that a new one takes an old one's place while keys are in use. Nothing is known of
a key but its digests, so it can move to the newest pepper only when its text is there: when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from waypost.kit.crypto import HmacSha256

IN_FORCE_MAX = 2  # more would be a look-up more for every key that nobody knows


class Pepper:
    """One version. It does not show its secret."""

    __slots__ = ("hmac", "version")

    def __init__(self, version: int, secret: bytes) -> None:
        self.version = version
        self.hmac = HmacSha256(secret)

    def digest(self, key_text: str) -> bytes:
        """What is stored and looked up instead of the key: 32 bytes."""
        return self.hmac.digest(key_text.encode())


class Peppers:
    """Those in force: `newest` is that of new keys, `before` is left by those that have not been used since."""

    __slots__ = ("before", "newest")

    def __init__(self, newest: Pepper, before: Pepper | None = None) -> None:
        assert before is None or before.version < newest.version
        self.newest = newest
        self.before = before

    @property
    def all(self) -> tuple[Pepper, ...]:
        """The newest first."""
        return (self.newest,) if self.before is None else (self.newest, self.before)


def peppers_of(secrets: Mapping[int, bytes]) -> Peppers:
    """Of secrets by version: one, or two."""
    assert 1 <= len(secrets) <= IN_FORCE_MAX
    return Peppers(*(Pepper(version, secrets[version]) for version in sorted(secrets, reverse=True)))
