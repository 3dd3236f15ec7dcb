"""Organisations, their keys, and their money."""

# ruff: noqa: PLC0415  heavy imports stand inside commands, so that `--help` is quick

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from waypost.cli.words import (
    AsJson,
    AtOnce,
    BudgetUsd,
    Config,
    DatabaseUrl,
    DataDir,
    KeyId,
    OrgId,
    PerMinute,
    Window,
    operate,
    parse_budget,
    parse_id,
    parse_moment,
    print_json,
    print_table,
    settings_of,
    show_budget,
    show_id,
    show_time,
)
from waypost.kit.money import format_usd, format_usd_floor, parse_usd
from waypost.tenancy.api_key import Scope

if TYPE_CHECKING:
    from waypost.storage.api_keys import Limits
    from waypost.tenancy.budget import Budget


def org_create(
    name: Annotated[str, typer.Argument(help="For people to recognise it by; need not be unique.")],
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Not billed: holds against the house's credit.")
    ] = False,
    in_flight: AtOnce = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make an organisation and print its id."""
    settings = settings_of(data_dir, database_url, config, may_be_new=True)
    made = operate(
        settings, lambda operator: operator.create_org(name, is_unlimited=unlimited, in_flight_max=in_flight)
    )
    org_id = show_id("org", made)
    print_json({"id": org_id, "name": name, "unlimited": unlimited}) if as_json else typer.echo(org_id)


def org_list(
    as_json: AsJson = False, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """Show all organisations, the oldest first."""
    settings = settings_of(data_dir, database_url, config)
    rows: list[dict[str, object]] = [
        {
            "id": show_id("org", each.id),
            "name": each.name,
            "unlimited": each.is_unlimited,
            "created_at": show_time(each.created_at),
        }
        for each in operate(settings, lambda operator: operator.list_orgs())
    ]
    print_json({"orgs": rows}) if as_json else print_table(rows)


def project_create(
    name: Annotated[str, typer.Argument(help="For people to recognise it by; need not be unique.")],
    org_id: OrgId,
    budget_usd: BudgetUsd = None,
    window: Window = "lifetime",
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make a project and print its id: its keys share its budget."""
    budget = parse_budget(budget_usd, window)
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    made = operate(settings, lambda operator: operator.create_project(owner, name=name, budget=budget))
    project_id = show_id("proj", made)
    if as_json:
        print_json({"id": project_id, "name": name, "org": org_id} | _show_budget(budget))
    else:
        typer.echo(project_id)


_OWNERS = {"org": "organisation", "proj": "project", "key": "key"}


def budget_set(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose: org_…, proj_… or key_….")],
    usd: Annotated[str, typer.Option(metavar="USD", help="The most that may be spent in each window.")],
    window: Window = "lifetime",
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give an organisation, a project or a key a budget, or change how much it is. It counts from the next request."""
    budget = parse_budget(usd, window, hint="--usd")
    assert budget is not None
    kind = owner.partition("_")[0]
    if kind not in _OWNERS:
        raise typer.BadParameter("an id that begins with org_, proj_ or key_", param_hint="OWNER")
    owner_id, settings = parse_id(kind, owner, "OWNER"), settings_of(data_dir, database_url, config)
    operate(settings, lambda operator: operator.set_budget(_OWNERS[kind], owner_id, budget))
    typer.echo(f"{owner} may spend {format_usd(budget.amount_nanos)} USD, window: {budget.period.value}")


def budget_list(
    org_id: OrgId,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the budgets of an organisation, its projects and its keys, and what is taken of each."""
    raw_id, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    kinds = {owner: kind for kind, owner in _OWNERS.items()}
    rows: list[dict[str, object]] = [
        {
            "owner": show_id(kinds[each.owner_kind], each.owner_id),
            "name": each.name,
            **show_budget(each.amount_nanos, each.period.value),
            "taken_usd": format_usd(each.taken_nanos),
        }
        for each in operate(settings, lambda operator: operator.list_budgets(raw_id))
    ]
    print_json({"budgets": rows}) if as_json else print_table(rows)


def project_list(
    org_id: OrgId,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the projects of an organisation."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    rows = [
        {"id": show_id("proj", each.id), "name": each.name, "created_at": show_time(each.created_at)}
        | show_budget(each.budget_nanos, each.period)
        for each in operate(settings, lambda operator: operator.list_projects(owner))
    ]
    print_json({"projects": rows}) if as_json else print_table(rows)


def key_create(
    org_id: OrgId,
    name: Annotated[str, typer.Option(help="For people to recognise it by.")] = "key",
    scope: Annotated[str, typer.Option(metavar="full|execution", help="What the key may be used for.")] = "full",
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    in_flight: AtOnce = None,
    models: Annotated[str | None, typer.Option(metavar="A,B", help="Model slugs it may call. Default: all.")] = None,
    project: Annotated[str | None, typer.Option(metavar="PROJECT", help="The project's id, proj_….")] = None,
    budget_usd: BudgetUsd = None,
    window: Window = "lifetime",
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Make an API key and print it, alone: it is shown this once."""
    from waypost.storage.api_keys import Limits

    if scope not in ("full", "execution"):
        raise typer.BadParameter("full or execution", param_hint="--scope")
    slugs = None if models is None else frozenset(slug.strip() for slug in models.split(",") if slug.strip())
    if slugs is not None and not slugs:
        raise typer.BadParameter("slugs with commas between them", param_hint="--models")
    limits = Limits(requests_per_minute, tokens_per_minute, slugs, in_flight)
    budget = parse_budget(budget_usd, window)
    owner = parse_id("org", org_id, "--org")
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    project_id = None if project is None else parse_id("proj", project, "--project")
    made = operate(
        settings,
        lambda operator: operator.create_key(
            owner, name=name, scope=Scope(scope), limits=limits, project_id=project_id, budget=budget
        ),
    )
    key_id = show_id("key", made.id)
    if as_json:
        shown = {"id": key_id, "key": made.text, "org": org_id, "name": name, "scope": scope, "project": project}
        print_json(shown | _show_limits(limits) | _show_budget(budget))
    else:
        typer.echo(f"waypost: {key_id}; the key is shown this once", err=True)
        typer.echo(made.text)


def key_list(
    org_id: OrgId,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show the keys of an organisation, as far as anybody can still see them."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    rows = [
        {
            "id": show_id("key", each.id),
            "name": each.name,
            "scope": each.scope.value,
            "key": f"{each.prefix}…{each.last_four}",
            "created_at": show_time(each.created_at),
            "revoked_at": None if each.valid_until is None else show_time(each.valid_until),
            "project": None if each.project_id is None else show_id("proj", each.project_id),
        }
        | _show_limits(each.limits)
        | show_budget(each.budget_nanos, each.period)
        for each in operate(settings, lambda operator: operator.list_keys(owner))
    ]
    print_json({"keys": rows}) if as_json else print_table(rows)


def key_revoke(
    key_id: KeyId, config: Config = None, data_dir: DataDir = None, database_url: DatabaseUrl = None
) -> None:
    """End a key: within two seconds no gateway takes it any more."""
    raw_id, settings = parse_id("key", key_id, "KEY_ID"), settings_of(data_dir, database_url, config)
    operate(settings, lambda operator: operator.revoke_key(raw_id))
    typer.echo(f"{key_id} is revoked")


def key_rotate(
    key_id: KeyId,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give a key a new text and print it, alone: it is shown this once. The text before it stays valid for 1 h."""
    raw_id = parse_id("key", key_id, "KEY_ID")
    settings = settings_of(data_dir, database_url, config, needs_secrets=True)
    made = operate(settings, lambda operator: operator.rotate_key(raw_id))
    assert made.previous_valid_until is not None
    until = show_time(made.previous_valid_until)
    if as_json:
        print_json({"id": key_id, "key": made.text, "previous_valid_until": until})
    else:
        typer.echo(f"waypost: {key_id}; the key before it stays valid until {until}", err=True)
        typer.echo(made.text)


def credit_add(
    org_id: OrgId,
    usd: Annotated[str, typer.Option(metavar="USD", help="The amount, such as 10 or 0.25.")],
    reference: Annotated[str | None, typer.Option(help="Names the payment: the same one is credited once.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Credit an organisation with a payment."""
    try:
        amount_nanos = parse_usd(usd)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--usd") from None
    if reference is not None and not 1 <= len(reference) <= 255:
        raise typer.BadParameter("1 to 255 characters", param_hint="--reference")
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    is_new = operate(settings, lambda operator: operator.add_credit(owner, amount_nanos, reference))
    if as_json:
        print_json({"org": org_id, "credited": is_new, "amount_nanos": str(amount_nanos)})
    elif is_new:
        typer.echo(f"credited {format_usd(amount_nanos)} USD to {org_id}")
    else:
        typer.echo("this reference was credited before; nothing changed")


def credit_refund(
    execution_id: Annotated[str, typer.Argument(metavar="EXECUTION_ID", help="exec_…, of a call or a longer one.")],
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Give a customer back what was charged for one execution. Once: a second time changes nothing."""
    raw_id, settings = parse_id("exec", execution_id, "EXECUTION_ID"), settings_of(data_dir, database_url, config)
    amount_nanos = operate(settings, lambda operator: operator.refund(raw_id))
    if as_json:
        print_json({"execution": execution_id, "refunded_nanos": str(amount_nanos)})
    elif amount_nanos:
        typer.echo(f"refunded {format_usd(amount_nanos)} USD of {execution_id}")
    else:
        typer.echo("it was refunded before; nothing changed")


def balance(
    org_id: OrgId,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show an organisation's money: available, held by running requests, and locked in leases of lost nodes."""
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    found = operate(settings, lambda operator: operator.balance(owner))
    parts = {"available": found.available_nanos, "held": found.held_nanos, "suspense": found.suspense_nanos}
    usd = format_usd_floor(found.total_nanos)
    if as_json:
        print_json({f"{name}_nanos": str(nanos) for name, nanos in parts.items()} | {"usd": usd})
    else:
        shown = ", ".join(f"{format_usd_floor(nanos)} {name}" for name, nanos in parts.items())
        typer.echo(f"{usd} USD: {shown}")


def usage(
    org_id: OrgId,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="From this day on (UTC), such as 2026-11-01.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what an organisation used, by day (UTC) and model, and what it paid, less what was refunded."""
    from waypost.storage.usage import UsageRow, total_of

    from_moment = None if since is None else parse_moment(since, "--since")
    owner, settings = parse_id("org", org_id, "--org"), settings_of(data_dir, database_url, config)
    found = operate(settings, lambda operator: operator.usage(owner, since=from_moment))

    def counts(row: UsageRow) -> dict[str, object]:
        return {
            "requests": row.requests,
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "images": row.images,
            "duration_ms": row.duration_ms,
            "characters": row.characters,
            "estimated": row.estimated,
            "charge_nanos": str(row.charge_nanos),
            "refunded_nanos": str(row.refunded_nanos),
        }

    rows = [{"day": str(row.day), "model": row.model} | counts(row) for row in found]
    total = total_of(found)
    if as_json:
        print_json({"rows": rows, "total": counts(total)})
    else:
        print_table(rows)
        typer.echo(f"total: {total.requests} requests, {format_usd(total.charge_nanos)} USD")


def _show_budget(budget: Budget | None) -> dict[str, object]:
    return show_budget(None, None) if budget is None else show_budget(budget.amount_nanos, budget.period.value)


def _show_limits(limits: Limits) -> dict[str, object]:
    return {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "in_flight": limits.in_flight_max,
        "models": None if limits.models is None else sorted(limits.models),
    }
