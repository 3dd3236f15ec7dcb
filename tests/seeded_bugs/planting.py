"""Plants one mistake in a copy of the package, and runs the tests that should notice it against that copy."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import msgspec

ROOT = Path(__file__).parents[2]
_HANGS_S = 30
_NOTICED, _UNNOTICED = 1, 0  # exit codes of pytest: a test failed, all passed


class Bug(msgspec.Struct, frozen=True):
    """A substitution in one file of `src/waypost`. `before` stands there exactly once."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]  # words for pytest
    hangs: bool = False  # the tests notice it by never ending

    def applied(self, text: str) -> str:
        """Raises LookupError when the place is not there, or is there more than once."""
        if text.count(self.before) != 1:
            raise LookupError(f"{self.name}: the place is {text.count(self.before)} times in {self.file}")
        return text.replace(self.before, self.after)


class Copy:
    """A copy of the package in a directory, with at most one mistake in it at a time."""

    def __init__(self, directory: Path, postgres_dir: Path | None = None) -> None:
        """With the directory of a PostgreSQL that runs, to which the tests go instead of starting their own."""
        self._source = directory / "src"
        self._postgres_dir = postgres_dir
        self._is_compiled = False
        shutil.copytree(
            ROOT / "src" / "waypost", self._source / "waypost", ignore=shutil.ignore_patterns("__pycache__")
        )

    def compile(self) -> None:
        """Worth it for many mistakes: with each, only the file that has it is compiled."""
        mode = PycInvalidationMode.CHECKED_HASH
        assert compileall.compile_dir(self._source, quiet=1, invalidation_mode=mode)
        self._is_compiled = True

    def notices(self, bug: Bug, timeout_s: int = 300) -> bool:
        """Whether the bug's tests fail on the copy that has it. Raises RuntimeError when they could not be run."""
        path = self._source / "waypost" / bug.file
        sound = path.read_text()
        path.write_text(bug.applied(sound))
        try:
            return self._fails(bug, timeout_s)
        finally:
            path.write_text(sound)

    def _fails(self, bug: Bug, timeout_s: int) -> bool:
        environment = {**os.environ, "PYTHONPATH": str(self._source)}
        if not self._is_compiled:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a second writing of a file may bear the time of the first
        if self._postgres_dir is not None:
            environment["WAYPOST_TEST_POSTGRES_DIR"] = str(self._postgres_dir)
        environment.pop("PYTEST_ADDOPTS", None)
        for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
            del environment[name]
        limit_s = _HANGS_S if bug.hangs else timeout_s
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=unshrunk",
            f"--timeout={limit_s}",
            *bug.tests,
        ]
        is_slow, told = False, ""
        try:
            run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * limit_s)
            told, is_slow = run.stdout + run.stderr, "Timeout (>" in run.stdout
        except subprocess.TimeoutExpired:
            is_slow = True
        if is_slow and not bug.hangs:
            raise RuntimeError(f"{bug.name}: the tests took too long to tell")
        if is_slow:
            return True
        if run.returncode not in (_NOTICED, _UNNOTICED):
            raise RuntimeError(f"{bug.name}: the tests did not run:\n{told[-3000:]}")
        return run.returncode == _NOTICED
