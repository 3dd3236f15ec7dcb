"""What a simulated provider saw of each request, for tests."""

from __future__ import annotations

import msgspec

RECORDS_MAX = 10_000


class Record(msgspec.Struct):
    """One request. Times are `time.monotonic()` seconds, comparable between processes of one machine; 0: not yet."""

    number: int  # 1 for the first request of this simulator
    style: str
    method: str
    path: str
    headers: list[tuple[str, str]]  # as received, in order
    model: str = ""
    is_stream: bool = False
    fault: str = ""  # the kind that hit it
    status: int = 0
    answer_id: str = ""  # as the provider names the answer
    arrived_s: float = 0.0  # request complete
    first_byte_s: float = 0.0
    closed_s: float = 0.0  # answer written, or connection lost
    is_closed_early: bool = False  # the caller went away before the answer was complete
    body: bytes = b""  # kept in-process only

    def header(self, name: str) -> str | None:
        """The value of a header by its lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def shown(self) -> dict[str, object]:
        """Without the body."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "body"}
