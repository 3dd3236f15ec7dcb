"""The processes of an `up` start without what they have no use for: each start would pay for it, and memory too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MIGRATION = {"sqlalchemy", "alembic"}
COMMAND_LINE = {"typer", "pydantic", "rich"}
CHECKS_OF_INPUTS = {"jsonschema"}
NONE_OF_THE_GATEWAYS = {"aiohttp", "procrastinate", "starlette", "uvicorn"}


@pytest.mark.parametrize(
    ("part", "needless"),
    [
        ("up", MIGRATION | CHECKS_OF_INPUTS | NONE_OF_THE_GATEWAYS),
        ("gateway", MIGRATION | COMMAND_LINE | CHECKS_OF_INPUTS | NONE_OF_THE_GATEWAYS),
        ("control", MIGRATION | COMMAND_LINE),
        ("vault", MIGRATION | COMMAND_LINE | CHECKS_OF_INPUTS | NONE_OF_THE_GATEWAYS),
        ("operator", MIGRATION | NONE_OF_THE_GATEWAYS),
    ],
)
def test_a_process_imports_nothing_that_it_has_no_use_for(part: str, needless: set[str]) -> None:
    source = f"import json, sys, waypost.app.part, waypost.app.{part}; print(json.dumps(list(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True).stdout
    assert needless & set(json.loads(shown)) == set()
