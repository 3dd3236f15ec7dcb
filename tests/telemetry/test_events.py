"""What a log line may hold: fields of a list, types and places, and never a text that came from outside."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import msgspec
import pytest

from waypost.telemetry import events
from waypost.telemetry.events import FIELDS, Draining, Event, emit, report_bug

SECRET = "what-the-caller-said-4711"


class PlantedEvent(Event, frozen=True):
    provider: str
    prompt: str


def event_types() -> list[type[Event]]:
    found, waiting = list[type[Event]](), [Event]
    while waiting:
        waiting += (kinds := waiting.pop().__subclasses__())
        found += kinds
    return [kind for kind in found if kind.__module__.startswith("waypost.")]


def unlisted(kinds: Iterable[type[Event]]) -> list[str]:
    return [f"{kind.__name__}.{name}" for kind in kinds for name in kind.__struct_fields__ if name not in FIELDS]


def run(code: str) -> list[dict[str, object]]:
    """The log lines of a process of its own that runs this."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert SECRET not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_field_of_every_event_is_on_the_list() -> None:
    assert unlisted(event_types()) == []
    assert len(event_types()) >= 15


def test_an_event_with_another_field_is_found() -> None:
    assert unlisted([PlantedEvent]) == ["PlantedEvent.prompt"]


def test_the_list_has_no_field_that_no_event_has() -> None:
    used = {name for kind in event_types() for name in kind.__struct_fields__}

    assert set(FIELDS) - used == set()


def test_an_event_holds_plain_values_alone() -> None:
    kinds = {field.type for kind in event_types() for field in msgspec.structs.fields(kind)}

    assert kinds <= {str, int, float}


def test_an_event_is_a_json_line_with_its_time_level_and_name() -> None:
    (line,) = run(
        "from waypost.telemetry.events import emit, ProcessEnded; emit(ProcessEnded(process='g', pid=7, exit_code=1))"
    )

    assert list(line) == ["ts", "level", "event", "process", "pid", "exit_code"]
    assert (line["level"], line["event"], line["exit_code"]) == ("warning", "ProcessEnded", 1)


def test_a_bug_is_told_by_type_and_place() -> None:
    (line,) = run(
        f"""
from waypost.telemetry.events import report_bug
from waypost.kit.money import parse_usd
try:
    parse_usd({SECRET!r})
except ValueError as error:
    error.add_note({SECRET!r})
    report_bug(error)
"""
    )

    assert (line["event"], line["error_type"]) == ("BugCaught", "ValueError")
    assert str(line["where"]).startswith("kit/money.py:")


def test_what_third_parties_log_is_told_without_their_words() -> None:
    lines = run(
        f"""
import logging
from waypost.telemetry.events import quieten_third_parties
quieten_third_parties()
logger = logging.getLogger("theirs")
logger.info("%s", {SECRET!r})
logger.warning("%s", {SECRET!r})
try:
    raise LookupError({SECRET!r})
except LookupError:
    logger.exception({SECRET!r})
"""
    )

    assert [(line["event"], line["logger"], line.get("error_type")) for line in lines] == [
        ("ThirdPartyLogged", "theirs", ""),
        ("ThirdPartyLogged", "theirs", "LookupError"),
    ]


def test_the_module_offers_no_way_to_log_a_text() -> None:
    functions = {name for name, _ in inspect.getmembers(events, inspect.isfunction) if not name.startswith("_")}

    assert functions == {"emit", "report_bug", "quieten_third_parties"}


def test_a_log_that_nobody_takes_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    nobody = os.fdopen(writer, "wb", buffering=0)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(buffer=nobody))
    emit(Draining(process="gateway-0"))
    nobody.close()
    report_bug(RuntimeError())
