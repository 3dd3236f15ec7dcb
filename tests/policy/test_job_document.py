"""Providers of jobs in the catalogue: what they are told, what is refused, and that a version is what was written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from waypost.policy.catalogue import Catalogue, JobSettings
from waypost.policy.document import CatalogueError, catalogue_document, read_catalogue
from waypost.policy.job_document import FAL_KEYS_URL, OUTPUT_HOSTS, may_serve_outputs

TEXT = """
[[providers]]
id = "rep"
kind = "replicate"
base_url = "https://api.replicate.com"
api_keys = ["env:REPLICATE_API_TOKEN"]
webhook_secrets = ["env:REPLICATE_WEBHOOK_SECRET"]

[[providers]]
id = "fal"
kind = "fal"
base_url = "https://queue.fal.run"
api_keys = ["env:FAL_KEY"]

[[providers]]
id = "plain"
kind = "http-job"
base_url = "https://jobs.example/api"
api_keys = ["env:PLAIN_KEY"]
credential_header = "X-Key"
output_hosts = ["cdn.example", ".media.example"]
[providers.job]
submit_path = "/v2/{model}/tasks"
status_path = "/v2/tasks/{id}"
callback_field = "notify"
states = { succeeded = ["done"] }

[[models]]
slug = "clip"
modality = "video"
price = { second = "100000" }
[[models.deployments]]
provider = "rep"
upstream_model = "owner/clip"
cost = { second = "1000" }
mode = "callback"
[[models.deployments]]
provider = "fal"
upstream_model = "fal-ai/clip/fast"
cost = { request = "100000" }
input_delivery = "base64"
[[models.deployments]]
provider = "plain"
upstream_model = "clip-1"
cost = { second = "90000" }
cost_by = "metered"
request = { rename = { n = "num_videos" }, set = { fps = 24 } }

[[models]]
slug = "paint"
modality = "image"
context_window = 1
max_output = 1
price = { image = "40000" }
[[models.deployments]]
provider = "rep"
upstream_model = "owner/paint"
cost = { second = "1400" }
"""


def document() -> dict[str, Any]:
    return tomllib.loads(TEXT)


def changed(path: str, value: object) -> dict[str, Any]:
    """The document with one value put in; `path` as in `providers/0/kind`."""
    whole: Any = document()
    at = whole
    *steps, last = path.split("/")
    for step in steps:
        at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
    at[int(last) if isinstance(at, list) else last] = value
    return whole  # type: ignore[no-any-return]


def mistakes_of(whole: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(whole)
    return caught.value.mistakes


def test_what_is_not_said_is_as_the_kind_has_it() -> None:
    catalogue = read_catalogue(document())
    rep, fal, plain = (provider.jobs for provider in catalogue.providers)
    assert rep == JobSettings(("env:REPLICATE_WEBHOOK_SECRET",), "", OUTPUT_HOSTS["replicate"])
    assert (fal.keys_url, fal.output_hosts) == (FAL_KEYS_URL, OUTPUT_HOSTS["fal"])
    assert plain.description is not None
    assert (plain.description.id, plain.description.cancel_path) == ("id", "")
    first, second, third = catalogue.models[0].deployments
    assert [each.mode for each in (first, second, third)] == ["callback", "poll", "poll"]
    assert [each.input_delivery for each in (first, second, third)] == ["url", "base64", "url"]
    assert [each.cost_by for each in (first, second, third)] == ["metered", "output", "metered"]


def test_a_version_says_what_was_written() -> None:
    catalogue = read_catalogue(document())
    assert read_catalogue(catalogue_document(catalogue)) == catalogue
    assert catalogue_document(catalogue)["providers"][2]["job"] == {  # type: ignore[index]
        "submit_path": "/v2/{model}/tasks",
        "status_path": "/v2/tasks/{id}",
        "callback_field": "notify",
        "states": {"succeeded": ["done"]},
    }


def test_a_secret_never_becomes_part_of_a_version() -> None:
    catalogue = read_catalogue(changed("providers/0/webhook_secrets", ["plain:whsec_canary"]))
    with pytest.raises(ValueError, match="references") as refused:
        catalogue_document(Catalogue(catalogue.providers))
    assert "canary" not in str(refused.value)


MISTAKES = [
    ("providers/1/webhook_secrets", ["env:A"], ".webhook_secrets: only for kinds replicate and http-job"),
    ("providers/0/webhook_secrets", ["whsec_canary"], "[0]: expected env:NAME, file:PATH or plain:VALUE"),
    ("providers/0/jwks_url", "https://x/", ".jwks_url: only for kind fal"),
    ("providers/1/jwks_url", "keys", '.jwks_url: expected an address such as "https://…/jwks.json"'),
    ("providers/0/job", {}, ".job: only for kind http-job"),
    ("providers/0/output_hosts", ["https://x"], "[0]: expected a host, or .example.org for all below it"),
    ("providers/0/credential_header", "X-Key", ".credential_header: only for the kinds openai and openai-responses and http-job"),  # noqa: E501
    ("providers/2/job/submit_path", "v2", '.submit_path: expected a path such as "/v1/jobs/{id}"'),
    ("providers/2/job/status_path", "/v2/tasks", ".status_path: expected '{id}' in it"),
    ("providers/2/job/status_path", "/v2/{idd}/{id}", ".status_path: '{idd}' stands for nothing here; did you mean 'id'?"),  # noqa: E501
    ("providers/2/job/look_up_path", "/v2/tasks", ".look_up_path: expected '{token}' in it"),
    ("providers/2/job/cancel_methd", "PUT", ".cancel_methd: unknown field; did you mean 'cancel_method'?"),
    ("providers/2/job/cancel_method", "PATCH", ".cancel_method: expected one of POST, PUT, DELETE, GET"),
    ("providers/2/job/id", "", '.id: expected a place in the answer, such as "data.0.id"'),
    ("providers/2/job/outputs", "a..b", '.outputs: expected a place in the answer, such as "data.0.id"'),
    ("providers/2/job/states", {"suceeded": []}, ".suceeded: unknown field; did you mean 'succeeded'?"),
    ("providers/2/job/idempotency_header", "Host", ".idempotency_header: this header is set by Waypost itself"),
    ("models/0/deployments/0/mode", "sync", ".mode: expected one of poll, callback"),
    ("models/0/deployments/0/input_delivery", "link", ".input_delivery: expected one of url, base64, passthrough"),
    ("models/0/deployments/1/input_delivery", "passthrough", ".input_delivery: 'passthrough' only for the kind replicate"),  # noqa: E501
    ("models/0/deployments/0/cost_by", "time", ".cost_by: expected one of output, metered"),
    ("models/0/price", {"input": "1"}, '.second: missing; expected a price in quotes, such as "2.50" (or one of output, request, image)'),  # noqa: E501
    ("models/1/price", {"second": "1"}, '.image: missing; expected a price in quotes, such as "2.50" (or one of output, request)'),  # noqa: E501
    ("models/0/modality", "chat", ".provider: kind 'replicate' has no models of modality 'chat'; openai, openai-responses, anthropic, gemini have"),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=map(str, range(len(MISTAKES))))
def test_a_mistake_is_told_with_its_place(path: str, value: object, message: str) -> None:
    assert any(mistake.endswith(message) for mistake in mistakes_of(changed(path, value))), mistakes_of(
        changed(path, value)
    )


def test_a_callback_takes_a_field_to_be_given_in() -> None:
    whole = changed("models/0/deployments/2/mode", "callback")
    assert read_catalogue(whole).models[0].deployments[2].mode == "callback"
    del whole["providers"][2]["job"]["callback_field"]
    (mistake,) = mistakes_of(whole)
    assert mistake == (
        "models[0].deployments[2].mode: 'callback' takes a callback_field in the [providers.job] of 'plain'"
    )


def test_a_provider_that_answers_in_the_call_takes_no_jobs() -> None:
    whole = changed("providers/1", {"id": "fal", "kind": "openai", "base_url": "https://x/v1", "api_keys": ["env:A"]})
    whole["models"][0]["modality"] = "image"
    whole["models"][0] |= {"context_window": 1, "max_output": 1, "price": {"image": "1"}}
    whole["models"][0]["deployments"][1] |= {"mode": "poll", "cost_by": "metered"}
    mistakes = mistakes_of(whole)
    assert "models[0].deployments[1].mode: expected one of sync, stream" in mistakes
    assert "models[0].deployments[1].cost_by: only for the kinds replicate and fal and http-job" in mistakes


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("https://cdn.example/a.mp4", True),
        ("http://CDN.example/a.mp4", True),
        ("https://x.media.example/a", True),
        ("https://media.example/a", False),
        ("https://evilmedia.example/a", False),
        ("https://jobs.example:8443/a", True),  # the base URL's own
        ("https://cdn.example.evil/a", False),
        ("https://cdn.example@evil/a", False),
        ("https://user:pw@cdn.example/a", False),
        ("ftp://cdn.example/a", False),
        ("https:///a", False),
        ("https://[::1/a", False),
        ("data:image/png;base64,AAAA", False),
    ],
)
def test_outputs_come_from_named_hosts_alone(address: str, may: bool) -> None:
    plain = read_catalogue(document()).providers[2]
    assert may_serve_outputs(plain.jobs, plain.base_url, address) is may


def test_a_host_may_be_bound_to_a_port() -> None:
    settings = JobSettings(output_hosts=("127.0.0.1:9100", "[::1]"))
    assert may_serve_outputs(settings, "https://x", "http://127.0.0.1:9100/a")
    assert not may_serve_outputs(settings, "https://x", "http://127.0.0.1:9101/a")
    assert may_serve_outputs(settings, "https://x", "http://[::1]:9101/a")
