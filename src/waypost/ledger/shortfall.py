"""Why an amount is not there, said to whoever asked for it."""

from __future__ import annotations

from datetime import UTC, datetime

from waypost.ledger.record import BudgetUsedUp

_OWNERS = {"key": "this API key", "project": "this API key's project", "organisation": "the organisation"}
_BUDGETS = {"day": "The daily budget", "week": "The weekly budget", "month": "The monthly budget"}


def used_up(budget: BudgetUsedUp) -> str:
    """Whose budget refused a request and when it renews: the beginning of a 402's message."""
    name = f"{_BUDGETS.get(budget.period, 'The budget')} of {_OWNERS[budget.owner_kind]}"
    if budget.renews_at_ms is None:
        return f"{name} does not cover the most this request may cost, and does not renew."
    renews_at = datetime.fromtimestamp(budget.renews_at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{name} does not cover the most this request may cost. It renews at {renews_at}."
