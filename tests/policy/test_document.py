"""The catalogue document: what is understood, and what each mistake is told."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

import msgspec
import pytest

from tests.policy.samples import FULL, catalogue_of, document, minimal_model
from waypost.kit.errors import ErrorCode
from waypost.metering.price import price_row
from waypost.policy.catalogue import Breaker, Bulkhead, CancelBilling, Catalogue, ErrorRule, Timeouts
from waypost.policy.document import CatalogueError, catalogue_document, read_catalogue, with_creation_times
from waypost.providers import JOB_KINDS, KINDS, MODALITIES

GONE = object()
NAME_HINT = "a name of at most 128 letters, digits and . _ : @ / -, beginning with a letter or digit, without '..'"
IN_QUOTES = 'put the price in quotes, such as {0} = "2.50", so that it is exact'
USD = "an amount in USD is digits with at most nine decimals, such as 10 or 0.25"
NO_PRICE = ': missing; no price, no route: give at least input and output, such as { input = "2.50", … }'
COSTS = "what a request costs depends on it"
SETTLED = f"cannot be changed here: {COSTS}"
URL = 'expected an address such as "https://api.example.org/v1"'
CODES = (
    "INPUT_VALIDATION_ERROR, CONTENT_MODERATION_REJECTED, FILE_NOT_FOUND, FILE_FORMAT_UNSUPPORTED, RATE_LIMITED, "
    "MODEL_OVERLOADED, MODEL_UNAVAILABLE, GENERATION_TIMEOUT, GENERATION_FAILED, SERVICE_UNAVAILABLE"
)


def changed(path: str, value: object) -> dict[str, Any]:
    """The full sample with one field set, or removed; `path` is written with dots, array indices as numbers."""
    whole = document()
    *parents, last = path.split("/")
    node: Any = whole
    for step in parents:
        node = node[int(step)] if isinstance(node, list) else node[step]
    key: Any = int(last) if isinstance(node, list) else last
    if value is GONE:
        del node[key]
    elif isinstance(node, list) and key == len(node):
        node.append(value)
    else:
        node[key] = value
    return whole


def shown(path: str) -> str:
    """`models/0/slug` as a message writes it: `models[0].slug`."""
    return re.sub(r"/([0-9]+)", r"[\1]", path).replace("/", ".")


def mistakes_of(whole: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(whole)
    return caught.value.mistakes


MISTAKES = [
    ("modles", [], ": unknown field; did you mean 'models'?"),
    ("models/0/price/inptu", "1", ": unknown field; did you mean 'input'?"),
    ("models/0/contxt_window", 1, ": unknown field; did you mean 'context_window'?"),
    ("models/0/deployments/0/wieght", 1, ": unknown field; did you mean 'weight'?"),
    (
        "models/0/deployments/0/request/zzz",
        1,
        ": unknown field; the known fields are set, rename, drop",
    ),
    ("providers/0/base_ur", "x", ": unknown field; did you mean 'base_url'?"),
    ("providers/0", {"api key": "x"}, ".\"api key\": unknown field; did you mean 'api_keys'?"),
    ("providers/0/timeouts/idle", 1, ": unknown field; did you mean 'idle_s'?"),
    ("providers/0/error_map/0/match/statuss", 1, ": unknown field; did you mean 'status'?"),
    ("models", {}, ": expected an array, got a table"),
    ("models/0", "swift", ": expected a table, got a string"),
    ("models/0/slug", GONE, f": missing; expected {NAME_HINT}"),
    ("models/0/slug", 7, f": expected {NAME_HINT}, got an integer"),
    ("models/0/slug", "-swift", f": expected {NAME_HINT}"),
    ("models/0/slug", "a/../b", f": expected {NAME_HINT}"),
    ("models/0/slug", "a" * 129, f": expected {NAME_HINT}"),
    ("models/0/slug", "swift\n", f": expected {NAME_HINT}"),
    ("models/0/modality", "smell", f": expected one of {', '.join(MODALITIES)}, video, audio"),
    ("models/0/context_window", "128000", ": expected an integer, got a string"),
    ("models/0/context_window", 1.5, ": expected an integer, got a float"),
    ("models/0/context_window", True, ": expected an integer, got a boolean"),
    ("models/0/max_output", 0, ": expected an integer from 1 to 100000000, got 0"),
    ("models/0/image_tokens_max", 0, ": expected an integer from 1 to 100000000, got 0"),
    ("models/0/max_output", GONE, ": missing; expected an integer"),
    ("models/0/aliases", "gpt", ": expected an array, got a string"),
    ("models/0/aliases/0", 1, ": expected a name, or a prefix and '*', got an integer"),
    ("models/0/aliases/0", "g*t", ": expected a name, or a prefix and '*'"),
    ("models/0/aliases/0", "*", ": expected a name, or a prefix and '*'"),
    ("models/0/aliases/1", "gpt-4o-mini", ": 'gpt-4o-mini' already stands at models[0].aliases[0]"),
    ("models/0/aliases/1", "swift-1", ": 'swift-1' already stands at models[0].slug"),
    ("models/1", minimal_model("swift-1"), ".slug: 'swift-1' already stands at models[0].slug"),
    ("models/0/aliases", ["m-*", "m-*"], "[1]: 'm-*' already stands at models[0].aliases[0]"),
    ("models/0/features/0", "Tools", ": expected a word of lower-case letters, digits and _"),
    ("models/0/price", GONE, NO_PRICE),
    ("models/0/price/output", GONE, ': missing; expected a price in quotes, such as "2.50"'),
    ("models/0/price/input", 2.5, f": {IN_QUOTES.format('input')}"),
    ("models/0/price/image", 2, f": {IN_QUOTES.format('image')}"),
    ("models/0/price/input", "-1", f": {USD}"),
    ("models/0/price/input", "1e3", f": {USD}"),
    ("models/0/price/input", "0.0000000001", f": {USD}"),
    ("models/0/price/input", "100001", ": the largest price is 100000 USD per million"),
    ("models/0/price", "2.50", ": expected a table, got a string"),
    ("models/0/deployments", [], ": missing; a model needs at least one [[models.deployments]]"),
    ("models/0/deployments/0/cost", GONE, NO_PRICE),
    ("models/0/deployments/0/provider", "alpa", ": there is no provider with this id; did you mean 'alpha'?"),
    ("models/0/deployments/0/provider", "zz", ": there is no provider with this id"),
    ("models/0/deployments/0/upstream_model", "a b", ": expected the provider's name of the model"),
    ("models/0/deployments/0/weight", 0, ": expected an integer from 1 to 1000000, got 0"),
    ("models/0/deployments/0/priority", -1, ": expected an integer from 1 to 1000000, got -1"),
    ("models/0/deployments/0/request/set", {"n": 5}, f".n: 'n' {SETTLED}"),
    ("models/0/deployments/0/request/drop", ["max_tokens"], f": 'max_tokens' {SETTLED}"),
    ("models/0/deployments/0/request/rename", {"user": "model"}, f".user: 'model' {SETTLED}"),
    (
        "models/0/deployments/0/request/rename",
        {"top_k": "max_tokens"},
        f".top_k: only max_tokens and max_completion_tokens can become 'max_tokens': {COSTS}",
    ),
    (
        "models/0/deployments/0/request/set",
        {"when": datetime.date(2026, 1, 1)},
        ".when: expected a value that JSON can hold: no dates, no infinite numbers",
    ),
    (
        "models/0/deployments/0/request/set",
        {"t": {"x": [float("nan")]}},
        ".t: expected a value that JSON can hold: no dates, no infinite numbers",
    ),
    ("models/0/deployments/0/expose", ["a b"], "[0]: expected the name of a response field"),
    ("providers/0/id", "al pha", ": expected an id of at most 64 letters, digits and . _ -"),
    ("providers/0/kind", "opnai", f": expected one of {', '.join((*KINDS, *JOB_KINDS))}; did you mean 'openai'?"),
    ("providers/0/base_url", "ftp://h/v1", ": expected an address that begins with http:// or https://"),
    ("providers/0/base_url", "http://u:pw@h/v1", ": no user name or password here; credentials belong into api_keys"),
    ("providers/0/base_url", "http://h/v1?key=1", ": no query and no fragment here"),
    ("providers/0/base_url", "http://h/v1#a", ": no query and no fragment here"),
    ("providers/0/base_url", "http://h/v1\r\nX: y", f": {URL}"),
    ("providers/0/base_url", "http://h/v1/../x", f": {URL}"),
    ("providers/0/base_url", "http://h/{v1}", f": {URL}"),
    ("providers/0/base_url", "http://h:99999/v1", f": {URL}"),
    ("providers/0/base_url", "http:///v1", f": {URL}"),
    ("providers/0/base_url", "http://[::1/v1", f": {URL}"),
    ("providers/0/api_keys", ["sk-secret"], "[0]: expected env:NAME, file:PATH or plain:VALUE"),
    ("providers/0/api_keys", ["plain:a\nb"], "[0]: expected env:NAME, file:PATH or plain:VALUE"),
    (
        "providers/0/api_keys",
        [],
        ': expected at least one of env:NAME, file:PATH or plain:VALUE; where no key is needed, "plain:none"',
    ),
    ("providers/0/headers", {"X-A": "a\r\nb"}, ".X-A: expected one line of printable ASCII"),
    ("providers/0/credential_header", "Host", ": this header is set by Waypost itself"),
    ("providers/0/api_version", "a&b=c", ': expected a version such as "2025-04-01-preview"'),
    ("providers/0/headers", {"X A": "a"}, '."X A": not a header name'),
    ("providers/0/headers", {"Host": "a"}, ".Host: this header is set by Waypost itself"),
    ("providers/0/headers", {"Authorization": "a"}, ".Authorization: credentials belong into api_keys"),
    ("providers/0/training", "no", ": expected true or false, got a string"),
    ("providers/0/retention_days", -1, ": expected an integer from 0 to 36500, got -1"),
    ("providers/0/cancel_stops_billing", "yess", ": expected one of yes, no, unknown; did you mean 'yes'?"),
    ("providers/0/cancel_stops_billing", True, ": expected one of yes, no, unknown, got a boolean"),
    ("providers/0/timeouts/connect_s", 0, ": expected a number from 0.001 to 86400, got 0"),
    ("providers/0/timeouts/connect_s", "3", ": expected a number, got a string"),
    ("providers/0/timeouts/total_s", float("nan"), ": expected a number from 0.001 to 86400, got nan"),
    ("providers/0/bulkhead", 5, ": expected a table, got an integer"),
    ("providers/0/breaker/failure_ratio", 2, ": expected a number from 0.01 to 1, got 2"),
    ("providers/0/error_map/0/match", {}, ": expected at least one of status, code, type, message_contains"),
    ("providers/0/error_map/0/match/status", 99, ": expected an integer from 100 to 599, got 99"),
    ("providers/0/error_map/0/code", "MODEL_OVERLOAD", f": expected one of {CODES}; did you mean 'MODEL_OVERLOADED'?"),
    ("providers/0/error_map/0/code", "UNAUTHENTICATED", f": expected one of {CODES}"),
    ("providers/1", document()["providers"][0], ".id: 'alpha' already stands at providers[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=[f"{i}" for i in range(len(MISTAKES))])
def test_a_mistake_is_told_with_its_full_path(path: str, value: object, message: str) -> None:
    assert shown(path) + message in mistakes_of(changed(path, value))


def test_all_mistakes_are_told_together() -> None:
    whole = changed("models/0/price/inptu", "1")
    whole["models"][0]["slug"] = 7
    whole["providers"][0]["kind"] = 7
    assert len(mistakes_of(whole)) == 3


def test_one_mistake_is_told_once() -> None:
    assert len(mistakes_of(changed("models/0/price", "2.50"))) == 1
    assert len(mistakes_of(changed("models/0/slug", GONE))) == 1


def test_a_credential_is_never_quoted() -> None:
    whole = changed("providers/0/api_keys", ["sk-canary", "plain:canary\n", 1])
    whole["providers"][0]["base_url"] = "https://canary:canary@h/?canary"
    whole["providers"][0]["headers"] = {"X-A": "canary\n"}
    assert "canary" not in " ".join(mistakes_of(whole))


def test_the_sample_of_the_reference_is_read() -> None:
    catalogue = read_catalogue(document(FULL))
    (provider,), (model,) = catalogue.providers, catalogue.models
    assert provider.api_keys == ("env:ALPHA_API_KEY",)
    assert provider.cancel_stops_billing is CancelBilling.YES
    assert provider.error_map == (ErrorRule(ErrorCode.MODEL_OVERLOADED, status=529),)
    assert (provider.timeouts, provider.bulkhead, provider.breaker) == (Timeouts(), Bulkhead(), Breaker())
    assert model.price == price_row(
        {
            "input": 2_500_000_000,
            "output": 10_000_000_000,
            "cache_read": 250_000_000,
            "cache_write_5m": 3_125_000_000,
            "cache_write_1h": 5_000_000_000,
        }
    )
    (deployment,) = model.deployments
    assert deployment.id == "alpha/alpha-large-2026"
    assert deployment.cost == price_row({"input": 2_000_000_000, "output": 8_000_000_000, "cache_read": 200_000_000})
    assert (deployment.cost.cache_write_1h, deployment.cost.audio_output) == (2_000_000_000, 8_000_000_000)


def test_an_empty_document_is_an_empty_catalogue() -> None:
    assert read_catalogue({}) == Catalogue()


def test_a_pair_that_stands_twice_gets_ids_of_its_own() -> None:
    model = minimal_model("a")
    model["deployments"] *= 3
    (read,) = catalogue_of(model).models
    assert [deployment.id for deployment in read.deployments] == ["alpha/m", "alpha/m#2", "alpha/m#3"]


def test_the_last_slash_of_an_address_is_dropped() -> None:
    read = read_catalogue(changed("providers/0/base_url", "https://[::1]:8443/v1/"))
    assert read.providers[0].base_url == "https://[::1]:8443/v1"


def rich_document() -> dict[str, Any]:
    whole = changed("models/0/deployments/0/request", {"set": {"top_k": 3, "safety": [{"on": True, "at": 0.5}, None]}})
    whole["models"][0]["deployments"][0]["request"] |= {
        "rename": {"max_completion_tokens": "max_tokens"},
        "drop": ["user"],
    }
    whole["models"][0]["deployments"][0] |= {"expose": ["citations"], "priority": 2, "weight": 7}
    whole["models"][0]["created"] = 1_700_000_000
    whole["providers"][0]["headers"] = {"X-Title": "Waypost"}
    whole["providers"][0]["timeouts"]["connect_s"] = 0.25
    whole["providers"][0]["error_map"].append(
        {"match": {"code": "a", "type": "b", "message_contains": "c"}, "code": "RATE_LIMITED"}
    )
    return whole


@pytest.mark.parametrize("whole", [document(), rich_document(), {}])
def test_a_catalogue_survives_its_document_as_json(whole: dict[str, Any]) -> None:
    catalogue = read_catalogue(whole)
    stored = json.loads(json.dumps(catalogue_document(catalogue)))
    assert read_catalogue(stored) == catalogue


def test_a_credential_never_enters_a_version() -> None:
    catalogue = read_catalogue(changed("providers/0/api_keys", ["env:A", "plain:sk-secret"]))
    with pytest.raises(ValueError, match="references to credentials") as caught:
        catalogue_document(catalogue)
    assert "sk-secret" not in str(caught.value)


def test_a_model_keeps_its_time_of_creation_over_versions() -> None:
    first = with_creation_times(catalogue_of(minimal_model("a")), Catalogue(), 100)
    second = with_creation_times(catalogue_of(minimal_model("a"), minimal_model("b")), first, 200)
    named = with_creation_times(catalogue_of(minimal_model("a", created=50)), second, 300)
    assert [model.created_s for model in (*first.models, *second.models, *named.models)] == [100, 100, 200, 50]


def test_an_unchanged_document_is_an_equal_catalogue() -> None:
    assert read_catalogue(rich_document()) == read_catalogue(rich_document())
    assert msgspec.structs.asdict(read_catalogue(document())) == msgspec.structs.asdict(read_catalogue(document()))


def test_tiers_and_changes_are_lists_of_their_own() -> None:
    whole = document(FULL)
    price = whole["models"][0]["price"]
    price["tiers"] = [{"above": 200_000, "input": "5", "output": "20"}]
    price["changes"] = [{"effective_from": "2027-01-01", "input": "2", "output": "9", "tiers": price["tiers"]}]
    read = read_catalogue(whole).models[0].price

    assert (read.tiers[0].above, read.tiers[0].prices.cache_read) == (200_000, 5_000_000_000)
    assert read.in_force(1_798_761_599_999).output == 10_000_000_000
    assert read.in_force(1_798_761_600_000).at(200_001).output == 20_000_000_000
    assert read_catalogue(catalogue_document(read_catalogue(whole))) == read_catalogue(whole)


@pytest.mark.parametrize(
    ("more", "mistake"),
    [
        (
            {"tiers": [{"above": 5, "input": "1"}]},
            "models[0].price.tiers[0].output: missing; expected a price in quotes",
        ),
        ({"tiers": [{"input": "1", "output": "1"}]}, "models[0].price.tiers[0].above: missing"),
        (
            {"tiers": [{"above": 5, "input": "1", "output": "1"}] * 2},
            "models[0].price.tiers[1].above: tiers stand in ascending order",
        ),
        (
            {"changes": [{"effective_from": "soon", "input": "1", "output": "1"}]},
            "models[0].price.changes[0].effective_from: expected a day or a moment in UTC in quotes",
        ),
    ],
)
def test_a_mistake_in_a_tier_or_change_is_told(more: dict[str, Any], mistake: str) -> None:
    whole = document(FULL)
    whole["models"][0]["price"] |= more
    assert any(told.startswith(mistake) for told in mistakes_of(whole))


def test_what_an_image_comes_to_is_the_models_or_6144() -> None:
    catalogue = catalogue_of(minimal_model("a", image_tokens_max=16_384), minimal_model("b"))
    models: Any = catalogue_document(catalogue)["models"]

    assert [each.image_tokens_max for each in catalogue.models] == [16_384, 6_144]
    assert [each.get("image_tokens_max") for each in models] == [16_384, None]


def test_a_schema_of_inputs_survives_being_stored_however_it_was_written() -> None:
    schema = {"type": "object", "required": ["scene"], "properties": {"scene": {"type": "string", "maxLength": 9}}}
    for written in (schema, json.dumps(schema)):
        catalogue = catalogue_of(minimal_model("stage-1", input_schema=written, deadline_s=90))
        stored = json.loads(json.dumps(catalogue_document(catalogue)))
        again = read_catalogue(stored)
        assert json.loads(again.models[0].input_schema) == schema
        assert again.models[0].deadline_s == 90
        assert stored["models"][0]["input_schema"] == schema


@pytest.mark.parametrize(
    "written",
    [
        7,
        "{",
        "[]",
        {"type": "string"},
        {"type": "objekt"},
        {"properties": []},
        {"properties": {"a": {"$ref": "https://example.org/schema"}}},
        {"const": "x" * 70_000},
        {"const": "\0"},
        {"default": datetime.date(2026, 1, 1)},
    ],
)
def test_what_is_no_schema_of_an_input_is_refused_by_name(written: object) -> None:
    with pytest.raises(CatalogueError) as refused:
        catalogue_of(minimal_model("stage-1", input_schema=written))
    (mistake,) = refused.value.mistakes
    assert mistake.startswith("models[0].input_schema: ")
