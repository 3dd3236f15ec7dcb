"""Webhooks of executions on the whole product: who is told, signed how, and that no content is told."""

from __future__ import annotations

from pathlib import Path

from standardwebhooks.webhooks import Webhook

from tests.e2e.stack import eventually
from tests.e2e.test_executions import CANARY, TEXT, Executing, document
from tests.worker.receivers import receivers, until

ENDPOINTS = "/v1/webhooks/endpoints"


async def test_endpoints_and_the_url_of_a_request_hear_of_executions_and_of_no_content(
    database: str, tmp_path: Path
) -> None:
    config = tmp_path / "waypost.toml"
    config.write_text("[egress]\nallow = []\n")
    environment = {"WAYPOST_CONFIG": str(config)}
    async with receivers() as there, Executing(database, tmp_path, workers=1, environment=environment) as stack:
        await stack.adopt(document(stack.sim))  # in place of the file's, which names no model
        wanted = {"url": there.url("/ok/1"), "events": ["execution.completed"]}
        assert (await stack.request("POST", ENDPOINTS, wanted)).status == 400
        config.write_text('[egress]\nallow = ["127.0.0.1"]\n')

        async def is_allowed() -> bool:
            return (await stack.request("POST", ENDPOINTS, wanted)).status == 201

        await eventually(is_allowed)
        endpoint = (await stack.request("POST", ENDPOINTS, wanted | {"url": there.url("/ok/2")})).json
        assert (await stack.request("POST", f"{ENDPOINTS}/{endpoint['id']}/test")).json["success"] is True
        own = (await stack.request("GET", "/v1/webhooks/secret")).json["secret"]

        body = {"model": "swift-1", "input": TEXT, "metadata": {"note": CANARY}, "webhook_url": there.url("/ok/own")}
        accepted = await stack.request("POST", "/v1/executions", body)
        assert accepted.status == 202, accepted.body
        made = accepted.json
        shown = await stack.ended(made["id"])
        await until(lambda: len(there.of("/ok/own")) == 2 and len(there.of("/ok/2")) == 2)

        told = Webhook(endpoint["secret"]).verify(there.of("/ok/2")[-1].body, there.of("/ok/2")[-1].headers)
        assert (told["type"], told["execution_id"]) == ("execution.completed", made["id"])
        assert told["data"]["cost"] == shown["cost"]
        assert told["data"]["usage"]["output_tokens"] == shown["usage"]["output_tokens"]
        assert {Webhook(own).verify(each.body, each.headers)["type"] for each in there.of("/ok/own")} == {
            "execution.started",
            "execution.completed",
        }
        for each in there.arrivals:
            assert CANARY.encode() not in each.body
            assert shown["output"]["text"].encode() not in each.body
