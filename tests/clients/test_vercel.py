"""The Vercel AI SDK as it comes, on the Node of a wheel."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.hosted import HostedStack
from tests.e2e.test_sdk_node import installed, run

# An object by Anthropic's format is a call that must be alone, which Gemini cannot be told: refused, naming the field.
REFUSED = {"by-gemini": {"messages: object": "cannot be given: parallel_tool_calls"}}


def test_the_vercel_ai_sdk_works_unmodified(stack: HostedStack, name: str) -> None:
    directory = installed(Path(__file__).parent / "node")
    done = run(directory, {"BASE_URL": stack.base_url, "API_KEY": stack.key, "MODEL": name})

    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert len(results) == 16
    for check, lost in REFUSED.get(name, {}).items():
        assert lost in results.pop(check)
    assert results == dict.fromkeys(results, "ok")
