"""Budgets: what an organisation, a project or a key may spend in each day, week or month (UTC), or ever.

A key's chain is itself, its project and its organisation, as far as they have budgets. Money is taken for the whole
chain or not at all, and a request belongs to the windows of its admission.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum

import msgspec

from waypost.kit.money import Nanos


class Period(Enum):
    DAY = "day"
    WEEK = "week"  # from Monday, as ISO 8601 counts
    MONTH = "month"
    LIFETIME = "lifetime"


class Chain(msgspec.Struct, frozen=True):
    """The budgets that a key spends from. Keys of one chain share a lease; keys without any, the organisation's."""

    id: bytes  # 16 bytes; the same for keys that spend from the same budgets
    owners: tuple[bytes, ...]
    periods: tuple[Period, ...]


class Budget(msgspec.Struct, frozen=True):
    """So much in each such period."""

    amount_nanos: Nanos
    period: Period


def ends_at(period: Period, now_ms: int) -> int | None:
    """The end of the window that a moment lies in, both Unix ms; None for a lifetime."""
    day = datetime.fromtimestamp(now_ms // 1000, UTC).replace(hour=0, minute=0, second=0)
    match period:
        case Period.DAY:
            end = day + timedelta(days=1)
        case Period.WEEK:
            end = day + timedelta(days=7 - day.weekday())
        case Period.MONTH:
            end = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        case Period.LIFETIME:
            return None
    return int(end.timestamp()) * 1000


def chain_ends_at(chain: Chain, now_ms: int) -> int | None:
    """When the first of its windows ends."""
    ends = [end for period in chain.periods if (end := ends_at(period, now_ms)) is not None]
    return min(ends, default=None)
