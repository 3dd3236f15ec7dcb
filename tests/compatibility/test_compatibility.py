"""Nothing that a caller asks for gets lost in silence, and the published table says what becomes of it."""

from __future__ import annotations

import pytest

from tests.compatibility.__main__ import PAGE
from tests.compatibility.asks import ASKS
from tests.compatibility.table import APPROXIMATED, EXACT, NOT_NEEDED, SEEN, SHOWN, SILENT, cells, page
from waypost.providers import KINDS

TRIED = cells()


@pytest.mark.parametrize("feature", ASKS)
def test_nothing_is_lost_in_silence(feature: str) -> None:
    silent = [key for key, cell in TRIED.items() if key[0] == feature and cell.verdict == SILENT]

    assert silent == []


def test_a_request_reaches_a_provider_of_its_own_format_whole() -> None:
    own = {key: cell for key, cell in TRIED.items() if KINDS[key[2]].format == key[1]}

    assert {cell.verdict for cell in own.values()} == {EXACT}, {
        key: cell for key, cell in own.items() if cell.verdict != EXACT
    }


def test_every_pair_of_format_and_kind_is_tried() -> None:
    assert {(name, kind) for _, name, kind in TRIED} == {(name, kind) for name in SHOWN for kind in KINDS}
    assert SEEN.keys() == ASKS.keys()


def test_every_approximation_happens() -> None:
    told = {(feature, kind) for (feature, _, kind), cell in TRIED.items() if cell.note and cell.verdict != "refused"}
    possible = {(feature, kind) for feature, name, kind in TRIED if KINDS[kind].format != name}

    assert told == {*APPROXIMATED, *NOT_NEEDED} & possible


def test_the_published_table_is_the_true_one() -> None:
    assert PAGE.read_text() == page(), "run: ./run python -m tests.compatibility --write"
