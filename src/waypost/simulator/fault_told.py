"""Faults in what an answer tells about itself: usage, finish reasons, its end."""

from __future__ import annotations

from waypost.simulator.answer import Tokens
from waypost.simulator.fault import Fault
from waypost.simulator.style import Style, Telling

_HUGE = 10**12
_BEYOND_64_BITS = 2**64


def spoil_telling(fault: Fault, telling: Telling, style: Style) -> None:
    """Applies the kinds that change what is told; leaves every other kind alone."""
    match fault.kind:
        case "usage" if fault.value == "missing":
            telling.has_usage = False
        case "usage":
            telling.usage = _wrong_usage(fault.value, style)
        case "early_usage":
            telling.has_usage = False
        case "no_finish_reason":
            telling.has_finish_reason = False
        case "no_done":
            telling.has_done = False


def _wrong_usage(value: str, style: Style) -> object:
    match value:
        case "null":
            return None
        case "zero":
            return style.usage(_same_everywhere(0))
        case "negative":
            return style.usage(_same_everywhere(-7))
        case "huge":
            return style.usage(_same_everywhere(_HUGE))
        case "overflow":
            return style.usage(_same_everywhere(_BEYOND_64_BITS))
    wrong: object = "many" if value == "text" else 12.5
    return dict.fromkeys(style.count_fields, wrong)


def _same_everywhere(count: int) -> Tokens:
    return Tokens(prompt=count, cached=count, cache_written=0, output=count, reasoning=count, image=0)
