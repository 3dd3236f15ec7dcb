"""What a gateway says of itself to whoever asks whether it can be given requests."""

from __future__ import annotations

from collections.abc import Callable


class State:
    """What `/readyz` tells: whether requests are admitted, and what is missing while they are."""

    def __init__(self) -> None:
        self.is_ready = False
        self.is_draining = False  # what arrives is still answered, but whoever balances load should send no more
        self.degraded: Callable[[], tuple[str, ...]] = tuple
