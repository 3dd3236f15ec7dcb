"""Tasks beside the requests: one that dies is told."""

from __future__ import annotations

import asyncio

import pytest

from waypost.app.background import Background


async def fail() -> None:
    raise ValueError("what somebody said")


async def test_a_task_that_dies_is_told_by_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    died = asyncio.Event()
    background = Background(died.set)

    background.start(fail())
    await died.wait()
    await background.end()

    told = capsys.readouterr().err
    assert '"error_type":"ValueError"' in told
    assert "somebody" not in told


async def test_a_task_that_may_end_is_told_only_when_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    deaths: list[str] = []
    background = Background(lambda: deaths.append("died"))

    background.start(asyncio.sleep(0), may_end=True)
    await asyncio.sleep(0.01)
    assert deaths == []
    background.start(fail(), may_end=True)
    await asyncio.sleep(0.01)
    await background.end()

    assert deaths == ["died"]
    assert '"error_type":"ValueError"' in capsys.readouterr().err


async def test_tasks_that_are_ended_are_not_told() -> None:
    deaths: list[str] = []
    background = Background(lambda: deaths.append("died"))
    background.start(asyncio.Event().wait())  # type: ignore[arg-type]  # returns True, in the end

    await background.end()

    assert deaths == []
