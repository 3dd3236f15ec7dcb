"""A few thousand seeded mutations of each parser's samples. The large run is by command: see CONTRIBUTING.md."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.mutations import mutations
from tests.fuzz.targets import TARGETS

CASES = int(os.environ.get("WAYPOST_TEST_FUZZ_CASES", "4000"))


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_bytes_break_no_rule(name: str) -> None:
    target = TARGETS[name]
    for data in (*target.samples, *mutations(target.samples, CASES)):
        try:
            target.run(data)
        except BaseException:
            print(f"input: {data!r}")
            raise
