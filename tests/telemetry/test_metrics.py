"""The metrics page of a process: what is counted, and by which labels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, ask
from waypost.supervisor.internal_http import get
from waypost.telemetry.metrics import LABELS, SECONDS, Page

_SERIES = re.compile(r"^([a-z_]+)\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="')
# `le` is the format's own label: the bound of a bucket.
ALLOWED = {*LABELS, "le"}
OF_OTHERS = {"child", "reason", "state"}  # of the supervisor and the control process


def labels(page: bytes) -> set[str]:
    return {label for _, labels in _SERIES.findall(page.decode()) for label in _LABEL.findall(labels)}


def test_counters_gauges_and_durations_are_rendered_as_prometheus_reads_them() -> None:
    page = Page()
    answers = page.counter("answers", "Answers.", ("model", "code"))
    answers.add("swift", "")
    answers.add("swift", "", by=2)
    page.histogram("seconds", "Time.", ("model",)).observe(SECONDS[1], "swift")
    page.gauge("open", "Open.", lambda: 3)

    rendered = page.render().decode()

    assert 'answers_total{code="",model="swift"} 3.0' in rendered
    assert f'seconds_bucket{{le="{SECONDS[0]}",model="swift"}} 0.0' in rendered
    assert f'seconds_bucket{{le="{SECONDS[1]}",model="swift"}} 1.0' in rendered
    assert 'seconds_bucket{le="+Inf",model="swift"} 1.0' in rendered
    assert "open 3.0" in rendered


@pytest.mark.parametrize("label", ["api_key", "org", "prompt"])
def test_a_label_that_is_not_on_the_list_is_refused(label: str) -> None:
    page = Page()

    with pytest.raises(KeyError, match=label):
        page.counter("requests", "Requests.", ("model", label))
    with pytest.raises(KeyError, match=label):
        page.histogram("seconds", "Time.", (label,))
    assert page.render() == b""


async def test_a_gateway_counts_by_listed_labels_and_by_nothing_a_caller_says(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.chat(ask("Hello"))
        await stack.chat({**ask("Hello"), "model": "a-name-of-the-callers"})
        await stack.request("GET", "/a-path-of-the-callers")
        await stack.at_rest()
        _, page = await get(stack.data_dir / "run" / "gateway.sock", "/metrics", timeout_s=10)

    assert labels(page) == ALLOWED - OF_OTHERS
    assert b"-of-the-callers" not in page
