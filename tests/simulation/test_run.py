"""A large run tells the truth of what passed, goes on after what failed, and can be gone on with when it was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.simulation.large_run import AT_ONCE, BrokenSchedule, Part, Run


class Parts:
    """Run at once; `fails` says with what, None for a part in which nothing does."""

    def __init__(self, fails: Callable[[range], BaseException | None]) -> None:
        self.begun: list[range] = []
        self._fails = fails

    def begin(self, part: range) -> Part:
        self.begun.append(part)
        future: Part = Future()
        error = self._fails(part)
        if error is None:
            future.set_result(Counter(COMPLETED=len(part)))
        else:
            future.set_exception(error)
        return future


def test_every_seed_is_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts(lambda _: None)
    run = Run(range(7, 7 + 2 * AT_ONCE + 5), parts.begin, jobs=2)

    run.work()

    assert [seed for part in parts.begun for seed in part] == list(range(7, 7 + 2 * AT_ONCE + 5))
    assert (run.passed, run.failed, run.is_cut) == (2 * AT_ONCE + 5, 0, False)
    assert str({"COMPLETED": 2 * AT_ONCE + 5}) in capsys.readouterr().out


def test_the_seeds_after_one_that_failed_are_run_on_a_database_of_their_own() -> None:
    parts = Parts(lambda part: BrokenSchedule(3, "seed 3") if 3 in part else None)
    run = Run(range(AT_ONCE), parts.begin, jobs=1)

    run.work()

    assert parts.begun == [range(AT_ONCE), range(4, AT_ONCE)]
    assert (run.passed, run.failed, run.is_cut) == (AT_ONCE - 1, 1, False)


def test_a_run_that_is_cut_tells_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stop_in_the_second(part: range) -> None:
        if part.start == AT_ONCE:
            run.stop()

    run = Run(range(3 * AT_ONCE), Parts(stop_in_the_second).begin, jobs=1)

    run.work()

    assert (run.passed, run.is_cut) == (2 * AT_ONCE, True)
    assert f"go on with {AT_ONCE} --first {2 * AT_ONCE}" in capsys.readouterr().out
