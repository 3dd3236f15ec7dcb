"""The tree of commands, and the edge where every error becomes a sentence and an exit code.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from waypost.cli import accounts, files, operation, peppers, prices, reconciliation, running

cli = typer.Typer(
    name="waypost",
    help="A self-hosted AI API router: one key and one balance reach every model, exactly billed, nothing kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_ALONE: tuple[Callable[..., None], ...] = (
    running.up,
    running.demo,
    running.gateway,
    running.control,
    running.vault,
    running.restart,
    running.sim,
    running.doctor,
    accounts.balance,
    accounts.usage,
    operation.backup,
    operation.restore,
)
_GROUPS: dict[tuple[str, str], dict[str, Callable[..., None]]] = {
    ("org", "Organisations: each has one balance and any number of keys."): {
        "create": accounts.org_create,
        "list": accounts.org_list,
    },
    ("project", "Projects: their keys share a budget."): {
        "create": accounts.project_create,
        "list": accounts.project_list,
    },
    ("key", "API keys."): {
        "create": accounts.key_create,
        "list": accounts.key_list,
        "revoke": accounts.key_revoke,
        "rotate": accounts.key_rotate,
    },
    ("pepper", "The secrets under which digests of API keys are made."): {
        "list": peppers.pepper_list,
        "rotate": peppers.pepper_rotate,
        "retire": peppers.pepper_retire,
        "restore": peppers.pepper_restore,
    },
    ("budget", "The most that an organisation, a project or a key may spend."): {
        "set": accounts.budget_set,
        "list": accounts.budget_list,
    },
    ("credit", "Money paid in, and given back."): {
        "add": accounts.credit_add,
        "refund": accounts.credit_refund,
    },
    ("catalog", "Versions of providers, models and prices."): {
        "apply": operation.catalog_apply,
        "show": operation.catalog_show,
        "history": operation.catalog_history,
        "diff": operation.catalog_diff,
        "rollback": operation.catalog_rollback,
        "prices": prices.catalog_prices,
        "price-history": prices.catalog_price_history,
    },
    ("node", "Gateway nodes."): {"list": operation.node_list, "retire": operation.node_retire},
    ("file", "Files of organisations."): {
        "limits": files.file_limits,
        "audit": files.file_audit,
        "erase": files.file_erase,
        "rotate-key": files.file_rotate_key,
    },
    ("ledger", "The books."): {"check": operation.ledger_check, "reconcile": reconciliation.ledger_reconcile},
}
for _command in _ALONE:
    cli.command()(_command)
for (_name, _about), _commands in _GROUPS.items():
    _group = typer.Typer(help=_about, no_args_is_help=True, rich_markup_mode=None)
    for _word, _command in _commands.items():
        _group.command(_word)(_command)
    cli.add_typer(_group, name=_name)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        from waypost import compiled

        typer.echo(f"waypost {version('waypost')} ({compiled.running})")
        raise typer.Exit


@cli.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; every error becomes a sentence and an exit code."""
    try:
        cli(prog_name="waypost")  # however it was started: what is told to be typed is this
    except Exception as error:  # noqa: BLE001  the process edge: whatever it is, a person reads one sentence
        from waypost.app.failure import sentences

        for sentence in sentences(error):
            typer.echo(f"waypost: {sentence}", err=True)
        sys.exit(1)
    sys.exit(0)
