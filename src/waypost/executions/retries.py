"""How often the work of an execution is done again, and how long it waits before."""

from __future__ import annotations

RUNS_MAX = 3  # of one execution's work: each after a process that had begun it was lost
TRIES_MAX = 4  # of a call within one run
FIRST_S, FACTOR = 0.5, 2.0
WAIT_S_MAX = 30.0  # that a provider may ask for
PUT_BACK_S_MAX = 10.0
JITTER = 0.2  # of a wait, either way: what failed together is not to come back together
ATTEMPTS_OF_A_RUN = 16  # numbers set aside for a run's attempts at providers: three of each try, and some to spare


def wait_s(tries: int, *, asked_s: float | None, dice: float) -> float | None:
    """Before the next try of a call, after `tries` ≥ 1; None when there is none. `dice` is 0 … 1, `asked_s` what the
    last answer wanted to be left alone for."""
    if tries >= TRIES_MAX:
        return None
    own_s = FIRST_S * FACTOR ** (tries - 1)
    return max(own_s * (1 - JITTER + 2 * JITTER * dice), min(asked_s or 0.0, WAIT_S_MAX))


def put_back_s(waited_s: float, *, asked_s: float | None, dice: float) -> float:
    """Until an execution is tried again for which there was no room anywhere, `waited_s` after it was begun first: so
    each wait is about twice the one before. There is no last one before its deadline."""
    own_s = min(max(waited_s, FIRST_S), PUT_BACK_S_MAX)
    return max(own_s * (1 - JITTER + 2 * JITTER * dice), min(asked_s or 0.0, WAIT_S_MAX))


def attempts_before(run: int) -> int:
    """Attempts that earlier runs may have made: `run` counts from 1."""
    return (run - 1) * ATTEMPTS_OF_A_RUN
