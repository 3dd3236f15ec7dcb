"""The catalogue as people write it and as versions keep it: `[[providers]]` and `[[models]]`, in TOML or JSON.

`read_catalogue` takes the parsed document and names every mistake in it at once; `catalogue_document` writes a
catalogue back in the same form, which is how a version is stored and shown. A stored version must stay readable for
ever: a new rule here needs a migration of the versions that break it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import msgspec

from waypost.kit.values import replace
from waypost.policy.catalogue import (
    COST_BASES,
    IMAGE_TOKENS_MAX,
    INPUT_DELIVERIES,
    Catalogue,
    Deployment,
    Model,
    Provider,
    RequestChanges,
)
from waypost.policy.input_schema import read_input_schema
from waypost.policy.json_value import is_json
from waypost.policy.price_document import TOKENS_MAX, prices_document, read_prices
from waypost.policy.provider_document import provider_document, read_provider
from waypost.policy.table import Table, did_you_mean
from waypost.providers import JOB_KINDS, JOB_MODALITIES, MODALITIES, UPLOADING, kinds_of

WEIGHT_MAX = 1_000_000
CREATED_S_MAX = 4_102_444_800  # the year 2100
DEADLINE_S_MAX = 86_400  # of an execution: no longer than its payload may be kept
OWN_TABLES = ("server", "egress", "files", "webhooks", "journal")  # of the same file, read by app.settings

_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_ALIAS = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:@/-]{0,126}(?:\*|[A-Za-z0-9._:@/-])?")
_NAME_HINT = "a name of at most 128 letters, digits and . _ : @ / -, beginning with a letter or digit, without '..'"
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_UPSTREAM_MODEL = re.compile(r"[!-~]{1,256}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Changing these would bill, route or stream something else than was admitted.
_SETTLED_FIELDS = ("model", "messages", "stream", "n")
_MAXIMA = ("max_tokens", "max_completion_tokens")
# By whether the provider takes jobs; the first is the default.
_MODES = {False: ("sync", "stream"), True: ("poll", "callback")}


class CatalogueError(Exception):
    """The document is refused as a whole. `mistakes` are lines such as
    `models[0].price.inptu: unknown field; did you mean 'input'?`"""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


def read_catalogue(document: dict[str, object]) -> Catalogue:
    """Providers and models of a parsed document; `[server]` and `[egress]` are somebody else's and left alone.

    Prices come out as nano-USD per million units. Raises CatalogueError with every mistake found.
    """
    mistakes: list[str] = []
    root = Table(document, "", mistakes)
    for name in OWN_TABLES:
        root.has(name)
    providers = tuple(read_provider(each) for each in root.tables("providers"))
    known = [provider.id for provider in providers]
    by_id = {provider.id: provider for provider in providers}
    models = tuple(_read_model(each, by_id) for each in root.tables("models"))
    root.close()
    _note_repeated(mistakes, "providers", "id", known)
    _note_repeated_names(mistakes, models)
    if mistakes:
        raise CatalogueError(mistakes)
    return Catalogue(providers, models)


def catalogue_document(catalogue: Catalogue) -> dict[str, object]:
    """The document of a catalogue, for `read_catalogue`; what equals its default is left out.

    Raises ValueError when a credential stands in it itself rather than a reference to it.
    """
    by_id = {provider.id: provider for provider in catalogue.providers}
    return {
        "providers": [provider_document(provider) for provider in catalogue.providers],
        "models": [_model_document(model, by_id) for model in catalogue.models],
    }


def with_creation_times(catalogue: Catalogue, previous: Catalogue, now_s: int) -> Catalogue:
    """Models without a time of creation get the one they had in the previous version, new ones `now_s`."""
    known = {model.slug: model.created_s for model in previous.models}
    models = tuple(
        model if model.created_s else replace(model, created_s=known.get(model.slug) or now_s)
        for model in catalogue.models
    )
    return replace(catalogue, models=models)


def _read_model(table: Table, providers: dict[str, Provider]) -> Model:
    modality = table.one_of("modality", list(dict.fromkeys((*MODALITIES, *JOB_MODALITIES))))
    tokens_default = None if modality in MODALITIES else 1  # no tokens are read or written where none are answered
    model = Model(
        slug=table.text("slug", form=_NAME, hint=_NAME_HINT),
        modality=modality,
        context_window=table.integer("context_window", tokens_default, least=1, most=TOKENS_MAX),
        max_output=table.integer("max_output", tokens_default, least=1, most=TOKENS_MAX),
        price=read_prices(table, "price", modality),
        deployments=_read_deployments(table, providers, modality),
        aliases=table.texts("aliases", form=_ALIAS, hint="a name, or a prefix and '*'"),
        features=table.texts("features", form=_FEATURE, hint="a word of lower-case letters, digits and _"),
        image_tokens_max=table.integer("image_tokens_max", IMAGE_TOKENS_MAX, least=1, most=TOKENS_MAX),
        created_s=table.integer("created", 0, least=0, most=CREATED_S_MAX),
        input_schema=read_input_schema(table),
        deadline_s=table.integer("deadline_s", 0, least=0, most=DEADLINE_S_MAX),
    )
    table.close()
    return model


def _read_deployments(model: Table, providers: dict[str, Provider], modality: str) -> tuple[Deployment, ...]:
    """`providers` are those of the document, by id."""
    able = kinds_of(modality)
    pairs: Counter[str] = Counter()
    deployments = []
    for table in model.tables("deployments"):
        name = table.text("provider", hint="the id of a provider")
        provider = providers.get(name)
        if name and provider is None:
            table.note("provider", f"there is no provider with this id{did_you_mean(name, list(providers))}")
        elif provider is not None and provider.kind not in able:
            has = f"kind '{provider.kind}' has no models of modality '{modality}'"
            table.note("provider", f"{has}; {', '.join(able)} have")
        upstream_model = table.text("upstream_model", form=_UPSTREAM_MODEL, hint="the provider's name of the model")
        pair = f"{name}/{upstream_model}"
        pairs[pair] += 1
        deployments.append(
            Deployment(
                id=pair if pairs[pair] == 1 else f"{pair}#{pairs[pair]}",
                provider=name,
                upstream_model=upstream_model,
                cost=read_prices(table, "cost", modality),
                priority=table.integer("priority", 1, least=1, most=WEIGHT_MAX),
                weight=table.integer("weight", 1, least=1, most=WEIGHT_MAX),
                request=_read_changes(table.table("request"), is_job=_is_job(provider)),
                expose=table.texts("expose", form=_FIELD, hint="the name of a response field"),
                mode=_read_mode(table, provider),
                input_delivery=table.one_of("input_delivery", INPUT_DELIVERIES, _deliveries(provider)),
                cost_by=table.one_of("cost_by", COST_BASES, _cost_base(provider)),
            )
        )
        if table.raw("input_delivery") == "passthrough" and provider is not None and provider.kind not in UPLOADING:
            table.note(
                "input_delivery",
                f"'passthrough' only for the kind{'s' * (len(UPLOADING) > 1)} {' and '.join(UPLOADING)}",
            )
        if table.has("cost_by") and provider is not None and not _is_job(provider):
            table.note("cost_by", f"only for the kinds {' and '.join(JOB_KINDS)}")
        table.close()
    if not model.raw("deployments"):
        model.note("deployments", "missing; a model needs at least one [[models.deployments]]")
    return tuple(deployments)


def _is_job(provider: Provider | None) -> bool:
    return provider is not None and provider.kind in JOB_KINDS


def _read_mode(table: Table, provider: Provider | None) -> str:
    modes = _MODES[_is_job(provider)]
    mode = table.one_of("mode", modes, modes[0])
    if mode == "callback" and provider is not None:
        described = provider.jobs.description
        if described is not None and not described.callback_field:
            table.note("mode", f"'callback' takes a callback_field in the [providers.job] of '{provider.id}'")
    return mode


def _deliveries(provider: Provider | None) -> str:
    """A job's provider fetches what it reads; where it is answered in the call, everything stands in the call."""
    return "url" if _is_job(provider) else "base64"


def _cost_base(provider: Provider | None) -> str:
    """Replicate bills most models by the time that they compute."""
    return "metered" if provider is not None and provider.kind == "replicate" else "output"


def _read_changes(table: Table, *, is_job: bool) -> RequestChanges:
    """The input of a job has no fields that decide what is held: what came out is what is charged, up to the hold."""
    values = table.table("set")
    changed = {name: _read_json(values, name) for name in values.names()}
    renames = table.table("rename")
    renamed = {name: renames.text(name, form=_FIELD, hint="the new name of the field") for name in renames.names()}
    dropped = table.texts("drop", form=_FIELD, hint="the name of a request field")
    table.close()
    if is_job:
        return RequestChanges(changed, renamed, dropped)
    for name in changed:
        _note_if_settled(values, name, (name,), _SETTLED_FIELDS + _MAXIMA)
    for old, new in renamed.items():
        _note_if_settled(renames, old, (old, new), _SETTLED_FIELDS)
        if new in _MAXIMA and old not in _MAXIMA:
            renames.note(old, f"only {' and '.join(_MAXIMA)} can become '{new}': what a request costs depends on it")
    _note_if_settled(table, "drop", dropped, _SETTLED_FIELDS + _MAXIMA)
    return RequestChanges(changed, renamed, dropped)


def _note_if_settled(table: Table, name: str, fields: Iterable[str], settled: tuple[str, ...]) -> None:
    for field in fields:
        if field in settled:
            table.note(name, f"'{field}' cannot be changed here: what a request costs depends on it")


def _read_json(table: Table, name: str) -> msgspec.Raw:
    value = table.raw(name)
    if not is_json(value):
        table.note(name, "expected a value that JSON can hold: no dates, no infinite numbers")
        value = None
    return msgspec.Raw(msgspec.json.encode(value))


def _note_repeated(mistakes: list[str], array: str, field: str, values: list[str]) -> None:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value and first.setdefault(value, i) != i:
            mistakes.append(f"{array}[{i}].{field}: '{value}' already stands at {array}[{first[value]}]")


def _note_repeated_names(mistakes: list[str], models: tuple[Model, ...]) -> None:
    """A slug or alias names one model."""
    first: dict[str, str] = {}
    for i, model in enumerate(models):
        if model.slug and first.setdefault(model.slug, f"models[{i}].slug") != f"models[{i}].slug":
            mistakes.append(f"models[{i}].slug: '{model.slug}' already stands at {first[model.slug]}")
    for i, model in enumerate(models):
        for j, alias in enumerate(model.aliases):
            at = f"models[{i}].aliases[{j}]"
            if first.setdefault(alias, at) != at:
                mistakes.append(f"{at}: '{alias}' already stands at {first[alias]}")


def _model_document(model: Model, providers: dict[str, Provider]) -> dict[str, object]:
    optional: dict[str, object] = {
        "aliases": list(model.aliases),
        "features": list(model.features),
        "created": model.created_s,
        "input_schema": msgspec.json.decode(model.input_schema) if model.input_schema else None,
        "deadline_s": model.deadline_s,
    }
    if model.image_tokens_max != IMAGE_TOKENS_MAX:
        optional["image_tokens_max"] = model.image_tokens_max
    return {
        "slug": model.slug,
        "modality": model.modality,
        "context_window": model.context_window,
        "max_output": model.max_output,
        **{name: value for name, value in optional.items() if value},
        "price": prices_document(model.price),
        "deployments": [_deployment_document(each, providers.get(each.provider)) for each in model.deployments],
    }


def _deployment_document(deployment: Deployment, provider: Provider | None) -> dict[str, object]:
    changes = deployment.request
    request = {
        "set": {name: msgspec.json.decode(value) for name, value in changes.set.items()},
        "rename": changes.rename,
        "drop": list(changes.drop),
    }
    optional = {"request": {name: value for name, value in request.items() if value}, "expose": list(deployment.expose)}
    is_job = _is_job(provider)
    settings = (
        ("mode", deployment.mode, _MODES[is_job][0]),
        ("input_delivery", deployment.input_delivery, _deliveries(provider)),
        ("cost_by", deployment.cost_by, _cost_base(provider)),
    )
    optional |= {name: value for name, value, default in settings if value != default}
    return {
        "provider": deployment.provider,
        "upstream_model": deployment.upstream_model,
        "priority": deployment.priority,
        "weight": deployment.weight,
        "cost": prices_document(deployment.cost),
        **{name: value for name, value in optional.items() if value},
    }
