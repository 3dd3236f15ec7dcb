"""One gateway for all client libraries, with a model on providers of each kind: `./run clients`.

Not a part of the everyday tests: these libraries want an older OpenAI SDK, so they run in an environment of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import deployment, model, provider
from waypost.providers import KINDS
from waypost.simulator import Simulator

collect_ignore_glob = ["test_*"] if importlib.util.find_spec("langchain_openai") is None else []
_STYLES = {"openai": "alpha", "openai-responses": "gamma", "anthropic": "delta", "gemini": "zeta"}


@pytest.fixture(scope="session")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("clients"), document=document) as stack:
        yield stack


@pytest.fixture(params=[f"by-{kind}" for kind in _STYLES if kind in KINDS])
def name(request: pytest.FixtureRequest) -> str:
    """A model, one after the other on providers of each kind."""
    return str(request.param)


def document(sim: Simulator) -> dict[str, Any]:
    kinds = {kind: style for kind, style in _STYLES.items() if kind in KINDS}
    return {
        "providers": [provider(sim, kind, style, kind=kind) for kind, style in kinds.items()],
        "models": [model(f"by-{kind}", deployment(kind)) for kind in kinds],
    }
