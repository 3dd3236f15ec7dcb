"""The shape of the house, held: import contracts, sizes, names, no floats near money. Each check is shown to fail."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import source_rules

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "waypost"
UNSEEN_BY_THE_DATA_PLANE = ("storage", "stores", "upstream", "control")
PLANTED_IMPORTS = {
    "Imports point down": ("kit/planted.py", "import waypost.policy.catalogue"),
    "No module needs itself": ("policy/planted.py", "import waypost.policy.planted_too"),
    "Thinking packages do not touch the world": ("metering/planted.py", "import time"),
    "The data plane reaches the books and the outside world through its ports": (
        "dispatch/planted.py",
        "import waypost.storage.planted",
    ),
    "The simulator knows nothing of the product but kit": ("simulator/planted.py", "import waypost.wire"),
    "Only telemetry writes logs, metrics and spans": ("gateway/planted.py", "import logging"),
}


def sources() -> list[tuple[str, str]]:
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    return [(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"}
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def contracts() -> list[dict[str, object]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: list[dict[str, object]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return found


def test_every_import_contract_holds() -> None:
    run = lint_imports(ROOT)

    assert run.returncode == 0, run.stdout + run.stderr


def test_every_import_contract_can_break(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "waypost", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for place, line in PLANTED_IMPORTS.values():
        (tmp_path / "src" / "waypost" / place).write_text(line + "\n")
    (tmp_path / "src" / "waypost" / "policy" / "planted_too.py").write_text("import waypost.policy.planted\n")
    (tmp_path / "src" / "waypost" / "storage" / "planted.py").write_text("")

    run = lint_imports(tmp_path)

    assert run.returncode != 0
    assert [c["name"] for c in contracts() if f"{c['name']} BROKEN" not in run.stdout] == []
    assert {c["name"] for c in contracts()} == set(PLANTED_IMPORTS)


def test_a_package_without_a_place_in_the_layers_breaks_the_contract(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "waypost", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "waypost" / "nowhere").mkdir()
    (tmp_path / "src" / "waypost" / "nowhere" / "__init__.py").write_text("")

    assert "Imports point down BROKEN" in lint_imports(tmp_path).stdout


def test_what_the_data_plane_must_not_see_is_listed_as_soon_as_it_is_built() -> None:
    listed = next(c for c in contracts() if str(c["name"]).startswith("The data plane"))["forbidden_modules"]
    built = {f"waypost.{name}" for name in UNSEEN_BY_THE_DATA_PLANE if (PACKAGE / name).exists()}

    assert isinstance(listed, list)
    assert built <= set(listed)


@pytest.mark.parametrize(
    "rule", [source_rules.oversized, source_rules.badly_named, source_rules.undescribed, source_rules.floats_near_money]
)
def test_every_source_file_keeps_the_rule(rule: Callable[[str, str], list[str]]) -> None:
    assert [violation for path, text in sources() for violation in rule(path, text)] == []


def test_revisions_of_the_schema_are_one_chain_in_the_order_of_their_numbers() -> None:
    texts = [path.read_text() for path in sorted((PACKAGE / "storage/migrations/versions").glob("0*.py"))]
    found = [re.search(r'^revision = "(\d+)"\ndown_revision = (?:None|"(\d+)")$', text, re.MULTILINE) for text in texts]
    numbers = [f"{number:04d}" for number in range(len(texts) + 1)]
    assert [(each[1], each[2] or "0000") for each in found if each is not None] == [
        (own, before) for before, own in itertools.pairwise(numbers)
    ]


def test_the_rules_see_the_source() -> None:
    assert len(sources()) > 20
    assert any(path.startswith(source_rules.MONEY_CODE) for path, _ in sources())


def test_a_file_of_500_lines_and_a_function_of_70_are_too_long() -> None:
    function = "def f():\n" + "    pass\n" * 69

    assert source_rules.oversized("a.py", "x = 1\n" * 499) == []
    assert source_rules.oversized("a.py", "x = 1\n" * 500) == ["a.py: 500 lines; a file stays under 500"]
    assert source_rules.oversized("a.py", function) == ["a.py:1: f has 70 lines; a function stays under 70"]
    assert source_rules.oversized("a.py", function.removesuffix("    pass\n")) == []


@pytest.mark.parametrize("path", ["src/waypost/utils.py", "src/waypost/kit/common/x.py", "src/waypost/pool_manager.py"])
def test_a_module_whose_name_says_nothing_is_refused(path: str) -> None:
    assert len(source_rules.badly_named(path, "")) == 1
    assert source_rules.badly_named("src/waypost/kit/clock.py", "") == []


def test_a_module_must_say_what_it_is_for() -> None:
    assert source_rules.undescribed("a.py", "x = 1\n") == ["a.py: a module opens with what it is for"]
    assert source_rules.undescribed("a.py", '"""A thing."""\nx = 1\n') == []


@pytest.mark.parametrize(
    "line",
    ["x = 0.5", "x = float('1')", "x = 7 / 2", "x /= 2", "def f(amount_nanos: float): ...", "y: float | None = None"],
)
def test_a_float_in_money_code_is_refused(line: str) -> None:
    assert len(source_rules.floats_near_money("src/waypost/ledger/hold.py", line)) == 1
    assert source_rules.floats_near_money("src/waypost/policy/routing.py", line) == []


def test_whole_numbers_and_times_are_fine_in_money_code() -> None:
    text = "def f(nanos: int, wait_s: float) -> int:\n    return -(-nanos * 3 // 1_000_000)\n"

    assert source_rules.floats_near_money("src/waypost/ledger/hold.py", text) == []
