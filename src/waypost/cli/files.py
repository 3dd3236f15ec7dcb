"""Files of organisations, from the operator's side."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

from typing import Annotated

import typer

from waypost.cli.words import (
    AsJson,
    Config,
    DatabaseUrl,
    DataDir,
    OrgId,
    operate,
    parse_id,
    print_json,
    print_table,
    settings_of,
    show_id,
    show_time,
)


def file_limits(
    org_id: OrgId,
    ttl_days: Annotated[
        int | None, typer.Option(min=1, max=365, help="Days that files are kept when an upload does not say.")
    ] = None,
    storage_bytes: Annotated[
        int | None, typer.Option(min=0, max=10**15, help="Room that all its files together may take.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Change the limits of an organisation's files, where given, and show them."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    found = operate(
        settings, lambda operator: operator.set_file_limits(owner, ttl_days=ttl_days, bytes_max=storage_bytes)
    )
    row: dict[str, object] = {
        "stored_bytes": found.bytes,
        "storage_bytes": found.bytes_max,
        "ttl_days": found.ttl_days,
    }
    print_json({"org": org_id} | row) if as_json else print_table([row])


def file_audit(
    org_id: OrgId,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")] = 100,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show who uploaded and deleted files, and which expired: those of the last 90 days."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    rows: list[dict[str, object]] = [
        {
            "at": show_time(each.created_at),
            "action": each.action,
            "file": show_id("file", each.file_id),
            "key": None if each.api_key_id is None else show_id("key", each.api_key_id),
            "address": each.source_ip,
        }
        for each in operate(settings, lambda operator: operator.file_audit(owner, limit=limit))
    ]
    print_json({"entries": rows}) if as_json else print_table(rows)


def file_erase(
    org_id: OrgId,
    yes: Annotated[bool, typer.Option("--yes", help="Really: nobody can bring them back.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Erase all files of an organisation and the trail of them. Their bytes go within an hour, while `up` runs."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    if not yes:
        raise typer.BadParameter(f"this erases every file of {org_id}: say --yes", param_hint="--yes")
    count = operate(settings, lambda operator: operator.erase_files(owner))
    typer.echo(f"{count} files of {org_id} are erased")


def file_rotate_key(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Make a new file key. Within an hour, while `up` runs, the keys of all files are wrapped with it."""
    from waypost.app.secrets import add_file_key

    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    version = add_file_key(settings.secrets_dir)
    typer.echo(f"file_key.{version} is made in {settings.secrets_dir}; keep those before it for a day")
