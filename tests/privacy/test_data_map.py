"""The rules of the data map, and the comparison with what exists."""

from __future__ import annotations

import pytest

from waypost.privacy.data_map import (
    Anchor,
    Annotation,
    Category,
    Column,
    DataMap,
    Erase,
    Export,
    ExternalTable,
    Purpose,
    Retention,
    drift,
    impersonal,
    mistakes,
    personal,
    sentence,
)

YEAR = Retention(Anchor.RECORDED, 365)
METADATA = personal(Category.EXECUTION_METADATA, Purpose.SERVICE, retention=YEAR)["privacy"]


def _map(*annotations: Annotation | None) -> DataMap:
    return DataMap(tuple(Column("t", f"c{at}", annotation) for at, annotation in enumerate(annotations)))


def test_a_sound_map_has_no_mistakes() -> None:
    secret = personal(
        Category.CREDENTIAL, Purpose.SECURITY, retention=Retention(Anchor.ENDED, 30), export=Export.SECRET
    )["privacy"]
    assert mistakes(_map(METADATA, impersonal(Category.OPERATION)["privacy"], secret)) == []


def test_a_column_that_says_nothing_is_a_mistake() -> None:
    assert mistakes(_map(METADATA, None)) == ["t.c1: says nothing about itself"]


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        (personal(Category.EXECUTION_METADATA, retention=YEAR), "no purpose"),
        (
            personal(Category.EXECUTION_METADATA, Purpose.OPERATION, retention=YEAR),
            "needs a purpose with a legal basis",
        ),
        (
            personal(Category.EXECUTION_METADATA, Purpose.SERVICE, retention=Retention(Anchor.RECORDED, 366)),
            "kept longer than 365 days",
        ),
        (
            personal(Category.BILLING, Purpose.BILLING, retention=YEAR, erase=Erase.KEPT_BY_LAW),
            "for no purpose that a law demands",
        ),
        (
            personal(Category.BILLING, Purpose.BILLING, retention=YEAR, export=Export.SECRET),
            "only a credential may be left out",
        ),
        (
            personal(Category.BILLING, Purpose.BILLING, retention=YEAR, erase=Erase.NOT_PERSONAL),
            "takes part in export and erasure",
        ),
        (impersonal(Category.BILLING), "personal data needs a purpose"),
        (
            {"privacy": Annotation(Category.OPERATION, (Purpose.OPERATION,), None, Export.SHOWN, Erase.NOT_PERSONAL)},
            "neither exported nor erased",
        ),
    ],
)
def test_an_annotation_that_promises_too_little_is_a_mistake(said: dict[str, Annotation], mistake: str) -> None:
    assert any(mistake in found for found in mistakes(_map(said["privacy"])))


def test_drift_is_found_in_both_directions_and_external_tables_are_left_alone() -> None:
    data_map = DataMap(
        (Column("t", "mapped", METADATA),), (ExternalTable("other", "theirs"), ExternalTable("gone", ""))
    )
    assert drift(data_map, [("t", "new"), ("other", "anything")]) == [
        "gone: in the map as external, but not in the database",
        "t.mapped: in the map, but not in the database",
        "t.new: in the database, but not in the map",
    ]


def test_an_annotation_reads_as_a_sentence() -> None:
    assert sentence(METADATA) == (
        "execution metadata; to provide the service (contract); kept 365 days after it was recorded; exported;"
        " deleted on erasure"
    )
    assert "kept while in use" in sentence(impersonal(Category.CONFIGURATION)["privacy"])
