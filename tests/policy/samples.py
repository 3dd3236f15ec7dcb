"""Catalogue documents for tests."""

from __future__ import annotations

import tomllib
from typing import Any

from waypost.policy.catalogue import Catalogue
from waypost.policy.document import read_catalogue

# The sample of the configuration reference, whole.
FULL = """
[server]
drain_s = 30

[[providers]]
id = "alpha"
kind = "openai"
base_url = "http://127.0.0.1:9100/v1"
api_keys = ["env:ALPHA_API_KEY"]
headers = {}
region = "US"
training = false
retention_days = 0
cancel_stops_billing = "yes"
usage_in_stream = "final"
credential_header = "api-key"
api_version = "2025-04-01-preview"
bulkhead = { in_flight = 200, queue = 50, wait_s = 0.5 }
breaker  = { window_s = 10, min_calls = 20, failure_ratio = 0.5, consecutive = 5, open_s = 5 }
timeouts = { connect_s = 3, first_byte_s = 60, thinking_first_byte_s = 300, idle_s = 60, stream_total_s = 900, total_s = 600 }
[[providers.error_map]]
match = { status = 529 }
code = "MODEL_OVERLOADED"

[[models]]
slug = "swift-1"
aliases = ["gpt-4o-mini"]
modality = "chat"
context_window = 128000
max_output = 8192
features = ["tools", "vision", "json_schema", "thinking"]
price = { input = "2.50", cache_read = "0.25", cache_write_5m = "3.125", cache_write_1h = "5.00", output = "10.00", image = "0", request = "0" }
[[models.deployments]]
provider = "alpha"
upstream_model = "alpha-large-2026"
priority = 1
weight = 1
cost = { input = "2.00", cache_read = "0.20", output = "8.00" }
request = { set = {}, rename = {}, drop = [] }
expose = []
"""  # noqa: E501  as it stands in the reference


def document(text: str = FULL) -> dict[str, Any]:
    return tomllib.loads(text)


def minimal_model(slug: str, **fields: Any) -> dict[str, Any]:
    deployment = {"provider": "alpha", "upstream_model": "m", "cost": {"input": "1", "output": "1"}}
    price = {"input": "1", "output": "1"}
    return {
        "slug": slug,
        "modality": "chat",
        "context_window": 1000,
        "max_output": 100,
        "price": price,
        "deployments": [deployment],
    } | fields


def catalogue_of(*models: dict[str, Any]) -> Catalogue:
    provider = {"id": "alpha", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_keys": ["env:K"]}
    return read_catalogue({"providers": [provider], "models": list(models)})
