"""What other gateways are told: every model of the load, at both of its mocks."""

from __future__ import annotations

from pathlib import Path

from bench.baseline import Ports
from bench.peers import litellm_config, portkey_headers
from bench.scenario import PLAIN_MODEL, Shape
from bench.system import Place
from bench.tools import Cores, Tools


def test_litellm_knows_every_model_of_the_load_at_both_mocks() -> None:
    ports = Ports(9300)
    place = Place(Tools("wrk", "nginx", None), Cores(0, (1,)), ports, Path("/"), 1)

    config = litellm_config(place, Shape(chunks=7, pace_ms=3))

    assert config.count(f"model_name: {PLAIN_MODEL}\n") == len(ports.plain_mocks)
    assert config.count("model_name: chunks-7-every-3ms\n") == len(ports.stream_mocks)
    assert all(f":{port}/v1\n" in config for port in (*ports.plain_mocks, *ports.stream_mocks))


def test_portkey_is_told_where_a_call_goes() -> None:
    assert portkey_headers(9301) == (
        ("x-portkey-provider", "openai"),
        ("x-portkey-custom-host", "http://127.0.0.1:9301/v1"),
    )
