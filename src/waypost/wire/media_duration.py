"""How long a film or a sound lasts, read from its container while its bytes go by, in whatever pieces they come.

    MP4, QuickTime, 3GP, M4A   boxes (ISO 14496-12 §4.2): `moov/mvhd`, or `moov/mvex/mehd` of a film in fragments
    WAV                        chunks (RIFF): what `fmt ` says of a second, and how much `data` there is

Nothing is kept but the header that is being read, so what a file says of its own lengths costs nothing. Where it does
not make sense there is no duration.
"""

from __future__ import annotations

from collections.abc import Generator

_MS_MAX = 2**31 - 1  # 24 days; what says more is not believed
_DESCENDED = frozenset((b"moov", b"mvex"))  # boxes that are looked into
_HEADERS = frozenset((b"mvhd", b"mehd"))
_PARTS_MAX = (
    4_096  # boxes or chunks that are looked at; a film has a dozen before its header, and hostile bytes millions
)
_HEADER_BYTES_MAX = 256  # of a box or chunk that is read; these have about a hundred
_BOXES = frozenset(("video/mp4", "video/quicktime", "video/3gpp", "audio/mp4"))
_WAV = "audio/wav"

_Reading = Generator[int, bytes, int | None]
"""Yields how many bytes it wants, or, negative, how many are to be passed over; is sent what it wanted, b"" for what
was passed over; returns milliseconds."""


class DurationReader:
    """Of one file."""

    def __init__(self, content_type: str) -> None:
        """By one of `wire.file_type`'s."""
        self._reading: _Reading | None = None
        self._sound: _Sound | None = None
        self._wanted = 0
        self._buffer = bytearray()
        self._skip = 0
        self.duration_ms: int | None = None
        if content_type in _BOXES:
            self._reading = _boxes()
        elif content_type == _WAV:
            self._sound = _Sound()
            self._reading = _chunks(self._sound)
        if self._reading is not None:
            self._want(next(self._reading))

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        if self._sound is not None:
            self._sound.seen += len(data)
        at = 0
        while self._reading is not None:
            if self._skip:
                passed = min(self._skip, len(data) - at)
                at += passed
                self._skip -= passed
                if self._skip:
                    return
                self._go_on(b"")
                continue
            missing = self._wanted - len(self._buffer)
            self._buffer += data[at : at + missing]
            at = min(len(data), at + missing)
            if len(self._buffer) < self._wanted:
                return
            found, self._buffer = bytes(self._buffer), bytearray()
            self._go_on(found)

    def finish(self) -> int | None:
        """Milliseconds, now that there are no more bytes; None where that cannot be told."""
        if self._sound is not None:
            self.duration_ms = self._sound.duration_ms()
        return self.duration_ms

    def _go_on(self, found: bytes) -> None:
        assert self._reading is not None
        try:
            self._want(self._reading.send(found))
        except StopIteration as ended:
            self._reading = None
            self.duration_ms = ended.value

    def _want(self, count: int) -> None:
        self._skip = max(0, -count)
        self._wanted = max(0, count)


def _boxes() -> _Reading:
    ticks_per_s = 0
    for _ in range(_PARTS_MAX):
        kind, left = yield from _box_head()
        if left < 0 or (ticks_per_s and kind in (b"moof", b"mdat")):
            return None  # it makes no sense; or it is in fragments, and nobody says of how long
        if kind in _DESCENDED:
            continue
        if kind in _HEADERS and left >= 8:
            body = yield min(left, _HEADER_BYTES_MAX)
            left -= len(body)
            if kind == b"mehd" and ticks_per_s:  # §8.8.2: by the time scale of the film, which comes before it
                return _ms(int.from_bytes(body[4 : 12 if body[0] else 8], "big"), ticks_per_s)
            if kind == b"mvhd":
                ticks_per_s, duration = _movie_header(body)
                if duration or not ticks_per_s:
                    return _ms(duration, ticks_per_s)
        if left:
            yield -left
    return None


def _box_head() -> Generator[int, bytes, tuple[bytes, int]]:
    """§4.2: the kind of the next box, and how many bytes follow; negative where that cannot be."""
    head = yield 8
    size = int.from_bytes(head[:4], "big")
    if size == 1:  # it has eight bytes of its own
        return head[4:], int.from_bytes((yield 8), "big") - 16
    return head[4:], size - 8 if size else 2**63  # up to the end: there is nothing behind it


def _movie_header(body: bytes) -> tuple[int, int]:
    """§8.2.2: ticks in a second, and the duration in ticks; zeros where it makes no sense or is not known."""
    if len(body) < (32 if body[0] else 20) or body[0] > 1:
        return 0, 0
    at, wide = (20, 8) if body[0] else (12, 4)
    duration = int.from_bytes(body[at + 4 : at + 4 + wide], "big")
    is_unknown = duration == (1 << 8 * wide) - 1
    return int.from_bytes(body[at : at + 4], "big"), 0 if is_unknown else duration


class _Sound:
    """What is known of a WAV file."""

    def __init__(self) -> None:
        self.seen = 0  # bytes of the file
        self.bytes_per_s = 0
        self.begins = 0  # where the sound does
        self.size = 0  # of it, as the file says

    def duration_ms(self) -> int | None:
        """Who writes while it records says 0 or 2^32 - 1 of its size: no more counts than there is."""
        if not self.bytes_per_s or not self.begins:
            return None
        there = max(0, self.seen - self.begins)
        size = min(self.size, there) if self.size else there
        return _ms(size, self.bytes_per_s)


def _chunks(sound: _Sound) -> _Reading:
    yield 12  # RIFF, its size, WAVE
    at = 12
    for _ in range(_PARTS_MAX):
        head = yield 8
        kind, size = head[:4], int.from_bytes(head[4:8], "little")
        at += 8
        if kind == b"data":
            sound.begins, sound.size = at, size
            return None  # the end tells
        left = size + (size & 1)  # chunks begin at even places
        at += left
        if kind == b"fmt " and size >= 16:
            body = yield 16
            sound.bytes_per_s = int.from_bytes(body[8:12], "little")
            left -= 16
        if left:
            yield -left
    return None


def _ms(units: int, units_per_s: int) -> int | None:
    """Rounded up: nobody is to be charged less than a length that there is, nor more than a millisecond beyond it."""
    ms = -(-units * 1_000 // units_per_s) if units_per_s else 0
    return ms if 0 < ms <= _MS_MAX else None
