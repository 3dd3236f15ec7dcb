"""What JSON can hold, of what TOML can."""

from __future__ import annotations


def is_json(value: object) -> bool:
    """No dates, no infinite numbers."""
    if isinstance(value, dict):
        return all(is_json(each) for each in value.values())
    if isinstance(value, list):
        return all(is_json(each) for each in value)
    if isinstance(value, float):
        return value - value == 0  # neither infinite nor NaN
    return value is None or isinstance(value, str | int)
