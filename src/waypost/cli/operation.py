"""The catalogue's versions, the nodes, and the books."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from waypost.cli.words import (
    AsJson,
    Config,
    DatabaseUrl,
    DataDir,
    operate,
    parse_id,
    print_json,
    print_table,
    settings_of,
    show_id,
    show_time,
)
from waypost.kit.money import format_usd


def catalog_apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML with [[providers]] and [[models]].")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a file's providers, models and prices the newest version; a file with a mistake is refused whole."""
    from waypost.app.catalogue_file import read_catalogue_file

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    catalogue = read_catalogue_file(settings, file)
    version = operate(settings, lambda operator: operator.apply_catalogue(catalogue))
    typer.echo("unchanged" if version is None else f"version {version}")


def catalog_show(config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None) -> None:
    """Print the newest version as JSON, in the form of the configuration file."""
    from waypost.policy.document import catalogue_document

    catalogue, version = operate(
        settings_of(data_dir, database_url, config), lambda operator: operator.newest_catalogue()
    )
    print_json({"version": version} | catalogue_document(catalogue), indent=2)


def catalog_history(
    as_json: AsJson = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """List the versions, the newest first."""
    versions = operate(settings_of(data_dir, database_url, config), lambda operator: operator.catalogue_history())
    rows = [
        {"version": each.version, "applied_at": show_time(each.applied_at), "source": each.source} for each in versions
    ]
    print_json({"versions": rows}) if as_json else print_table(rows)


def catalog_diff(
    before: Annotated[int, typer.Argument(metavar="A", min=1, help="A version: see `catalog history`.")],
    after: Annotated[int | None, typer.Argument(metavar="B", min=1, help="Another; the newest unless given.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what changed from version A to version B, field by field."""
    settings = settings_of(data_dir, database_url, config)
    changes = operate(settings, lambda operator: operator.compare_catalogues(before, after))
    if as_json:
        print_json({"changes": [msgspec.structs.asdict(change) for change in changes]})
    else:
        print_table([msgspec.structs.asdict(change) for change in changes])


def catalog_rollback(
    version: Annotated[int, typer.Argument(metavar="N", min=1, help="The version whose content to return to.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make an earlier version's content the newest version. It holds until the configuration file changes."""
    settings = settings_of(data_dir, database_url, config)
    typer.echo(f"version {operate(settings, lambda operator: operator.roll_back_catalogue(version))}")


def node_list(
    as_json: AsJson = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Show gateway nodes: when each was last heard of, and the money that its leases hold."""
    rows: list[dict[str, object]] = [
        {
            "id": show_id("node", each.id),
            "alive": each.is_alive,
            "epoch": each.epoch,
            "heartbeat_at": show_time(each.heartbeat_at),
            "retired_at": None if each.retired_at is None else show_time(each.retired_at),
            "leases": each.leases,
            "leased_nanos": str(each.leased_nanos),
            "left_behind_nanos": str(each.left_behind_nanos),
            "suspended_nanos": str(each.suspended_nanos),
        }
        for each in operate(settings_of(data_dir, database_url, config), lambda operator: operator.list_nodes())
    ]
    print_json({"nodes": rows}) if as_json else print_table(rows)


def node_retire(
    node_id: Annotated[str, typer.Argument(metavar="NODE_ID", help="The node's id, node_…: see `node list`.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Declare that a node and its journal are lost: what is left of its leases comes back at once.

    What it had under way is then paid by you, not by your customers."""
    raw_id, settings = parse_id("node", node_id, "NODE_ID"), settings_of(data_dir, database_url, config)
    operate(settings, lambda operator: operator.retire_node(raw_id))
    typer.echo(f"{node_id} is retired")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not be there yet.")],
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave the secrets out: without them no API key is valid.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Write the whole deployment to one file: database, journals and secrets. It may run meanwhile."""
    from waypost.app.backup import back_up

    settings = settings_of(data_dir, database_url, config)
    back_up(settings, file, with_secrets=not without_secrets)
    if settings.files.store == "s3":
        told = f"the objects of files are in the bucket {settings.files.bucket}, and not in the backup"
        typer.echo(f"waypost: {told}: back that up by itself", err=True)
    typer.echo(
        f"{file} holds everything" + (" but the secrets" if without_secrets else ": keep it as you keep secrets")
    )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` wrote.")],
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a deployment from a backup, in an empty data directory and an empty database."""
    from waypost.app.backup import restore as restore_deployment

    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    head = restore_deployment(settings, file)
    where = f" --data-dir {shlex.quote(str(settings.data_dir))}" if data_dir else ""
    where += " --database-url …" if database_url else ""  # as it was given: it may hold a password
    check, up = f"waypost ledger check{where}", f"waypost up{where}"
    typer.echo(f"restored; run `{check}`, then `{up}`: it books what the journals hold")
    if not head.has_secrets:
        typer.echo("waypost: the backup has no secrets: put yours in place before the first start", err=True)


def ledger_check(
    as_json: AsJson = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Check the rules of the books over everything in them. Exit code 1 when one is broken."""
    found = operate(settings_of(data_dir, database_url, config), lambda operator: operator.check_ledger())
    totals = msgspec.structs.asdict(found.totals)
    is_ok = not found.violations
    if as_json:
        shown = {name: str(nanos) for name, nanos in totals.items()}
        print_json({"ok": is_ok, "violations": list(found.violations), "totals": shown})
    else:
        for line in found.violations:
            typer.echo(line)
        print_table(
            [{"total": name.removesuffix("_nanos"), "usd": format_usd(nanos)} for name, nanos in totals.items()]
        )
        typer.echo("every rule holds" if is_ok else f"{len(found.violations)} rules are broken")
    raise typer.Exit(0 if is_ok else 1)
