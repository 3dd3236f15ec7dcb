"""The journal says of every field what it is for, and has no other."""

from __future__ import annotations

from waypost.kit.values import fields_of
from waypost.ledger.record import Ack, Close, Extend, Grant, Open, Progress
from waypost.privacy.data_map import drift, mistakes, sentence
from waypost.privacy.journal import journal_map
from waypost.wire.canonical import Usage

RECORDS = (Grant, Open, Progress, Extend, Close, Ack)
# A usage is written unit by unit.
LIVE = [
    (record.__name__, written)
    for record in RECORDS
    for field in fields_of(record)
    for written in (fields_of(Usage) if field == "usage" else (field,))
]


def test_every_field_of_every_record_is_in_the_map_and_the_map_is_sound() -> None:
    assert drift(journal_map(), LIVE) == []
    assert mistakes(journal_map()) == []


def test_a_field_that_the_map_does_not_know_is_found() -> None:
    assert drift(journal_map(), [*LIVE, ("Open", "prompt")]) == ["Open.prompt: in the database, but not in the map"]
    assert drift(journal_map(), LIVE[1:]) == ["Grant.lease_id: in the map, but not in the database"]


def test_it_reads_as_a_sentence() -> None:
    said = next(column.annotation for column in journal_map().columns if column.place == "Open.model")
    assert said is not None
    assert "kept 0 days after the database has it too" in sentence(said)
