"""The price book: what models cost us and customers, what providers publish, and how that changed."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

from typing import Annotated

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
    show_time,
)


def catalog_prices(
    model: Annotated[str | None, typer.Option(metavar="SLUG", help="Of this model alone.")] = None,
    is_import: Annotated[
        bool, typer.Option("--import", help="Make the published prices the costs, as a new version.")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Compare what providers bill us, as the catalogue says, with what they publish.

    Published prices come with this program and may be older than a provider's page."""
    from waypost.policy.price_document import prices_document

    settings = settings_of(data_dir, database_url, config)
    found = operate(settings, lambda operator: operator.compare_prices(model))
    if as_json:
        rows = [
            {
                "model": each.model,
                "deployment": each.deployment,
                "verdict": each.verdict,
                "cost": prices_document(each.cost),
                "listed": None if each.listed is None else prices_document(each.listed),
            }
            for each in found
        ]
        print_json({"deployments": rows})
    else:
        print_table(
            [
                {
                    "model": each.model,
                    "deployment": each.deployment,
                    "verdict": each.verdict,
                    "differing": "; ".join(each.differing),
                }
                for each in found
            ]
        )
    if is_import:
        version = operate(settings, lambda operator: operator.import_prices(model))
        typer.echo("unchanged" if version is None else f"version {version}", err=as_json)


def catalog_price_history(
    model: Annotated[str, typer.Argument(metavar="SLUG", help="The model.")],
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show every version that changed a model's price or costs, the newest first, and what it changed."""
    changes = operate(settings_of(data_dir, database_url, config), lambda operator: operator.price_history(model))
    rows: list[dict[str, object]] = [
        {
            "version": version.version,
            "applied_at": show_time(version.applied_at),
            "place": change.place,
            "before": change.before,
            "after": change.after,
        }
        for version, change in changes
    ]
    print_json({"changes": rows}) if as_json else print_table(rows)
