"""The vault: payloads of asynchronous executions, in memory with a time to live, and nowhere else.

VaultError
├── VaultFull          no room, or none for this owner: 503 for the caller, who may try again
├── VaultUnavailable   it does not answer, or breaks the connection: the same
└── ValueTooLarge      above `VALUE_BYTES_MAX`: 413, since it will never fit
"""

from __future__ import annotations

from typing import Protocol

VALUE_BYTES_MAX = 32 * 1024 * 1024  # twice the largest request body by default; results are no larger
KEY_BYTES_MAX = 255
OWNER_BYTES_MAX = 16
TTL_S_MAX = 7 * 86_400.0  # an execution with the longest deadline, and its result for a day after it


class VaultError(Exception):
    """The vault did not do what was asked. Its text never holds a key or a value."""


class VaultFull(VaultError):
    """There is no room for this value until others are deleted or expire: in all, or in its owner's share."""


class VaultUnavailable(VaultError):
    """Nobody answers. Whether a `put` or a `delete` took effect is not known; both may be repeated."""


class ValueTooLarge(VaultError):
    """A value above `VALUE_BYTES_MAX` fits no vault."""


class Vault(Protocol):
    """Values by key, each until its time is over. Whoever holds a vault closes it."""

    async def put(self, key: str, value: bytes, ttl_s: float, *, owner: bytes = b"") -> None:
        """Keep `value` for `ttl_s` seconds (above 0, cut at `TTL_S_MAX`), in place of what `key` named before. It is
        counted to the share of `owner`, an organisation's id, where the vault has shares.

        Raises VaultFull (what was there before is still there), VaultUnavailable, ValueTooLarge."""

    async def get(self, key: str) -> bytes | None:
        """The value; None when there never was one, it has expired, or the vault was restarted meanwhile. Reading does
        not end it. Raises VaultUnavailable."""

    async def delete(self, *keys: str) -> None:
        """Forget these; those that are not there do not matter. Raises VaultUnavailable."""

    async def check(self) -> None:
        """Whether it answers, and keeps the promise of memory only. Raises VaultUnavailable, VaultUnfit."""

    async def close(self) -> None:
        """Let go of its connections; it may still be used after."""


class VaultUnfit(Exception):
    """This server would write payloads to a disk. The message is a sentence for the operator, with what to do."""


def encode_key(key: str) -> bytes:
    """Raises ValueError for one that is empty or too long."""
    raw = key.encode()
    if not 0 < len(raw) <= KEY_BYTES_MAX or b"\0" in raw:
        raise ValueError(f"a key of the vault has 1 to {KEY_BYTES_MAX} bytes, none of them 0")
    return raw


def encode_owned(key: str, owner: bytes) -> bytes:
    """The key, and after it whose share it counts to."""
    return encode_key(key) + (b"\0" + owner if owner else b"")


def check_value(value: bytes, ttl_s: float) -> float:
    """The seconds it is to stay. Raises ValueTooLarge; ValueError when it is not to stay at all."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueTooLarge
    if not ttl_s > 0:
        raise ValueError("a value of the vault stays for more than 0 s")
    return min(ttl_s, TTL_S_MAX)
