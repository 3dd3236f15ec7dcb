"""The peppers of a deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from waypost.cli.words import AsJson, Config, DatabaseUrl, DataDir, operate, print_json, print_table, settings_of

Version = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Of the pepper: see `pepper list`.")]


def pepper_list(
    as_json: AsJson = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Show the peppers, the newest first, with the valid keys known under each, and those known under it alone."""
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    rows: list[dict[str, object]] = [
        {
            "version": each.version,
            "state": each.state.value,
            "keys": each.keys,
            "only_here": each.only_here,
        }
        for each in operate(settings, lambda operator: operator.list_peppers())
    ]
    print_json({"peppers": rows}) if as_json else print_table(rows)


def pepper_rotate(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Make a new pepper. New keys are made under it within two seconds, and others move to it when they are used."""
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    path = operate(settings, lambda operator: operator.rotate_pepper())
    typer.echo(f"{path} is made; copy it, as it is, to each machine with a secrets directory of its own")


def pepper_retire(
    version: Version,
    yes: Annotated[bool, typer.Option("--yes", help="Really: keys known under it alone are refused then.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Take one of two peppers out of force. It is set aside, and can be brought back."""
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    aside, lost = operate(settings, lambda operator: operator.retire_pepper(version, is_sure=yes))
    typer.echo(f"pepper {version} is retired, and {lost} keys with it; it is kept as {aside}")


def pepper_restore(
    version: Version, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Bring a retired pepper back into force."""
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    count = operate(settings, lambda operator: operator.restore_pepper(version))
    typer.echo(f"pepper {version} is in force again, for {count} keys that are known under it alone")
