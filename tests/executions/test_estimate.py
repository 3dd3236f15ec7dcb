"""What a job may come to, by its input and its schema."""

from __future__ import annotations

from typing import Any

import pytest

from waypost.executions.estimate import DURATION_S_DEFAULT, job_ceiling

SCHEMA = {"properties": {"duration": {"default": 5}, "n": {}}}


@pytest.mark.parametrize(
    ("asked", "schema", "seconds"),
    [
        ({"duration": 7}, SCHEMA, 7),
        ({"seconds": "30"}, SCHEMA, 30),  # by another name than the one that has a default
        ({"seconds": 3.2, "n": 2}, SCHEMA, 8),
        ({}, SCHEMA, 5),
        ({"duration": "long", "seconds": -1}, SCHEMA, 5),
        ({}, {}, DURATION_S_DEFAULT),
        ({}, {"properties": {"duration": {"maximum": 6}}}, 6),
        ({}, {"properties": {"duration": {"maximum": 60}}}, DURATION_S_DEFAULT),
    ],
)
def test_a_film_is_as_long_as_was_asked_for_by_any_name(
    asked: dict[str, Any], schema: dict[str, Any], seconds: int
) -> None:
    assert job_ceiling("video", asked, schema).duration_ms_max == seconds * 1_000
