"""How much and how long: the bounds of the server, of the client, and of one call."""

from __future__ import annotations

import msgspec


class ServerLimits(msgspec.Struct, frozen=True):
    """What one caller, and all of them together, may take of this process."""

    header_bytes: int = 32 * 1024
    """All header lines of one request; over it 431."""
    header_count: int = 64
    line_bytes: int = 8 * 1024
    """One header line, and the request target; over it 431."""
    body_bytes: int = 16 * 1024 * 1024
    image_body_bytes: int = 32 * 1024 * 1024
    """A body with images in it, where it is more than `body_bytes`: those of a request, in base64, at the most that
    Anthropic takes. What else is in it may be as long as any body."""
    buffered_bytes: int = 256 * 1024 * 1024
    """Request bodies held by this process at one time; over it 503."""
    pipelined_requests: int = 64
    """Requests parsed ahead of the one being answered, at most one read's worth; after them the connection closes."""

    head_s: float = 10.0
    """From the first byte of a request (or from the connection, for its first one) to the end of its headers."""
    body_s: float = 60.0
    body_grace_s: float = 10.0
    """After it a body must have arrived at `body_bytes_per_s` on average."""
    body_bytes_per_s: int = 32_000
    keep_alive_s: float = 75.0
    """Longer than the 60 s of common load balancers, so that they close idle connections, not we."""

    write_high_water_bytes: int = 256 * 1024
    stalled_reader_s: float = 30.0
    """A caller that reads nothing for this long, with more than the high water waiting, has gone away."""
    linger_s: float = 1.0
    linger_bytes: int = 64 * 1024
    """What a refused request may still send before we close; an immediate close would reset our answer away."""


class ClientLimits(msgspec.Struct, frozen=True):
    """What one origin may take of this process."""

    header_bytes: int = 64 * 1024
    body_bytes: int = 64 * 1024 * 1024
    """One answer, unless the call says otherwise."""
    idle_s: float = 55.0
    """Shorter than the 60 s after which common servers close, so that a reused connection is rarely a dead one."""
    idle_connections: int = 512


class CallTimeouts(msgspec.Struct, frozen=True, gc=False):
    """One call. `first_byte_s` runs from sending to the first byte of the answer, `idle_s` between its bytes.

    Both stand still while the receiver has paused the call; `total_s` never does.
    """

    connect_s: float
    first_byte_s: float | None
    idle_s: float
    total_s: float
