"""A provider's bill against the books, and the report that a person reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from waypost.cli.words import (
    AsJson,
    Config,
    DatabaseUrl,
    DataDir,
    operate,
    print_json,
    print_table,
    settings_of,
    show_id,
)
from waypost.kit.money import format_usd

if TYPE_CHECKING:
    from waypost.ledger.reconciliation import Group
    from waypost.storage.provider_bills import Imported

_SHOWN_MAX = 20  # of each list; --json has all


def ledger_reconcile(
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="The provider's id in the catalogue.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its usage lines, CSV or JSON; - reads from stdin.")],
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Compare a provider's usage lines with the books, and correct what its calls cost; nobody is charged more.

    The same file may be imported again, and a newer one for the same days: it replaces what the older one said. Exit
    code 1 when something needs a look.
    """
    settings = settings_of(data_dir, database_url, config)
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    found = operate(settings, lambda operator: operator.reconcile(provider, data))
    alarms = sum(group.is_alarming for group in found.groups)
    if as_json:
        print_json({"ok": not alarms, **_as_json(found)})
    else:
        _print(found)
        typer.echo(f"{alarms} of them need a look" if alarms else "nothing is unexplained")
    raise typer.Exit(1 if alarms else 0)


def _print(found: Imported) -> None:
    print_table([_row(group) for group in found.groups])
    lines = [(group, line) for group in found.groups for line in group.unmatched_lines]
    if lines:
        typer.echo(
            "\nbilled, and belonging to no attempt (the house bears it; ask the provider, and look for a crash):"
        )
        print_table(
            [
                {"day": str(line.day), "model": line.model, "usd": format_usd(line.amount_nanos)}
                for _, line in lines[:_SHOWN_MAX]
            ]
        )
        _print_rest(len(lines))
    candidates = [attempt for group in found.groups for attempt in group.refund_candidates]
    if candidates:
        typer.echo("\ncharged, and not billed by the provider (you may refund it):")
        print_table(
            [
                {"execution": show_id("exec", attempt.execution_id), "charged_usd": format_usd(attempt.charge_nanos)}
                for attempt in candidates[:_SHOWN_MAX]
            ]
        )
        _print_rest(len(candidates))
    count = sum(group.lines for group in found.groups)
    typer.echo(
        f"\n{count} lines in {len(found.groups)} groups, {found.lines_new} of them new; "
        f"the cost of goods changed by {format_usd(found.corrected_nanos)} USD"
    )


def _print_rest(count: int) -> None:
    if count > _SHOWN_MAX:
        typer.echo(f"… and {count - _SHOWN_MAX} more: --json lists them")


def _row(group: Group) -> dict[str, object]:
    corrected = group.billed_nanos - group.booked_nanos
    return {
        "day": str(group.day),
        "model": group.model,
        "lines": group.lines,
        "attempts": group.attempts,
        "billed_usd": format_usd(group.billed_nanos),
        "booked_usd": format_usd(group.booked_nanos),
        "unexplained_usd": format_usd(group.difference_nanos),
        "state": "LOOK" if group.is_alarming else "corrected" if corrected else "same",
    }


def _as_json(found: Imported) -> dict[str, object]:
    return {
        "lines_new": found.lines_new,
        "corrected_nanos": str(found.corrected_nanos),
        "groups": [
            {
                "day": str(group.day),
                "model": group.model,
                "lines": group.lines,
                "attempts": group.attempts,
                "billed_nanos": str(group.billed_nanos),
                "booked_nanos": str(group.booked_nanos),
                "unexplained_nanos": str(group.difference_nanos),
                "needs_a_look": group.is_alarming,
                "unmatched_lines": [
                    {"day": str(line.day), "nanos": str(line.amount_nanos)} for line in group.unmatched_lines
                ],
                "refund_candidates": [
                    {
                        "execution_id": show_id("exec", attempt.execution_id),
                        "charge_nanos": str(attempt.charge_nanos),
                    }
                    for attempt in group.refund_candidates
                ],
            }
            for group in found.groups
        ],
    }
