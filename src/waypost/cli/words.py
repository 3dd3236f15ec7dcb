"""The words that commands share: options, settings, ids and times as people write them, and how results are printed."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from waypost.app.settings import Settings, read_settings
from waypost.kit import ids
from waypost.kit.money import format_usd, parse_usd
from waypost.tenancy.budget import Budget, Period

if TYPE_CHECKING:
    from waypost.app.operator import Operator

_Result = TypeVar("_Result")

DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Data directory (WAYPOST_DATA_DIR). Default: $XDG_DATA_HOME/waypost."),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A PostgreSQL of your own (WAYPOST_DATABASE_URL). Default: the embedded one."),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Configuration (WAYPOST_CONFIG). Default: ./waypost.toml, if there is one."),
]
OrgId = Annotated[str, typer.Option("--org", metavar="ORG", help="The organisation's id, org_….")]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, key_…: see `key list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Host = Annotated[str, typer.Option(help="Address to listen at.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")]
BudgetUsd = Annotated[str | None, typer.Option(metavar="USD", help="The most that may be spent. Default: no limit.")]
Window = Annotated[
    str, typer.Option(metavar="day|week|month|lifetime", help="How often the budget renews, in UTC. Default: never.")
]
AtOnce = Annotated[
    int | None,
    typer.Option("--in-flight", min=1, max=10**7, help="Requests under way at one time. Default: as `[server]` says."),
]
PerMinute = Annotated[int | None, typer.Option(min=1, max=10**12, help="Per minute. Default: no limit.")]


def settings_of(
    data_dir: Path | None,
    database_url: str | None,
    config: Path | None,
    *,
    may_be_new: bool = False,
    needs_secrets: bool = False,
) -> Settings:
    """What the options, the environment and the file say. Raises SettingsError, also when nothing stands where they
    point: only a command that rightly begins with nothing (`may_be_new`) makes a deployment, or a typing mistake would.
    One that `needs_secrets` works with those of the deployment, and never makes others.
    """
    settings = read_settings(environment=os.environ, data_dir=data_dir, database_url=database_url, config_path=config)
    if not may_be_new:
        from waypost.app.database import refuse_absent

        refuse_absent(settings, needs_secrets=needs_secrets)
    return settings


def operate(settings: Settings, work: Callable[[Operator], Awaitable[_Result]]) -> _Result:
    from waypost.app import operator

    return operator.operate(settings, work)


def parse_id(kind: str, value: str, hint: str) -> bytes:
    try:
        return ids.parse(kind, value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def show_id(kind: str, raw: bytes) -> str:
    return ids.text(kind, raw)


def parse_moment(value: str, hint: str) -> datetime:
    """A day or a moment in ISO 8601; without an offset it is in UTC."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter("a date such as 2026-11-01", param_hint=hint) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parse_budget(usd: str | None, window: str, *, hint: str = "--budget-usd") -> Budget | None:
    """What `--budget-usd`, or an option of another name, and `--window` say."""
    try:
        period = Period(window)
    except ValueError:
        raise typer.BadParameter("day, week, month or lifetime", param_hint="--window") from None
    if usd is None:
        if period is not Period.LIFETIME:
            raise typer.BadParameter("of what? Give --budget-usd too", param_hint="--window")
        return None
    try:
        return Budget(parse_usd(usd), period)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def show_budget(nanos: int | None, period: str | None) -> dict[str, object]:
    return {"budget_usd": None if nanos is None else format_usd(nanos), "window": period}


def show_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(value: object, indent: int = 0) -> None:
    encoded = msgspec.json.encode(value)
    typer.echo((msgspec.json.format(encoded, indent=indent) if indent else encoded).decode())


def print_table(rows: Sequence[dict[str, object]]) -> None:
    """Columns under their names; nothing at all when there are no rows."""
    if not rows:
        return
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, list) else str(value)
