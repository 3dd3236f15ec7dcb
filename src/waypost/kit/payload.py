"""Prompt and answer bytes, wrapped so that they cannot be printed, formatted, pickled or encoded by accident."""

from __future__ import annotations

from typing import NoReturn


class Payload:
    """What a caller or a model said. Only wire formats, provider kinds and the relay call `unwrap`."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def unwrap(self) -> bytes:
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<payload of {len(self._data)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a payload is never serialised")
