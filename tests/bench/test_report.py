"""From samples to medians, ratios, tables and the README."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from bench.report import BEGIN, END, Check, Report, Sample, publish, render, save, summarise

MACHINE = dict.fromkeys(
    ("taken", "commit", "cores", "cpu", "memory", "kernel", "python", "modules", "uvloop", "nginx", "envoy", "wrk"), "1"
)


def sample(system: str, round_number: int, scenario: str = "plain", /, **values: float) -> Sample:
    return Sample(scenario, system, round_number, values)


def test_ratios_are_taken_within_a_round_before_the_median() -> None:
    # The machine was twice as slow in round 2, for everybody.
    samples = [
        sample("nginx", 1, cpu_us=20.0),
        sample("waypost", 1, cpu_us=40.0),
        sample("nginx", 2, cpu_us=40.0),
        sample("waypost", 2, cpu_us=80.0),
        sample("nginx", 3, cpu_us=21.0),
        sample("waypost", 3, cpu_us=63.0),
    ]

    figures = summarise(samples)["plain"]["waypost"]

    assert figures["cpu_us"] == 63.0
    assert figures["cpu_us_x_nginx"] == 2.0
    assert "cpu_us_x_envoy" not in figures


def test_added_latency_is_what_lies_beyond_the_direct_call_of_the_same_round() -> None:
    samples = [
        sample("direct", 1, "latency", us_p50=80.0, us_p99=200.0),
        sample("waypost", 1, "latency", us_p50=260.0, us_p99=640.0),
    ]

    figures = summarise(samples)["latency"]

    assert (figures["waypost"]["added_us_p50"], figures["waypost"]["added_us_p99"]) == (180.0, 440.0)
    assert "added_us_p50" not in figures["direct"]


def test_counts_are_added_up_over_rounds() -> None:
    samples = [sample("nginx", number, requests=10.0, failed=1.0) for number in (1, 2, 3)]

    assert summarise(samples)["plain"]["nginx"] == {"requests": 30.0, "failed": 3.0}


def report(*samples: Sample, checks: tuple[Check, ...] = ()) -> Report:
    return Report(MACHINE, {"seconds": 30}, samples, summarise(samples), checks)


def test_requests_per_second_are_marked_unless_the_proxys_core_was_full() -> None:
    text = render(
        report(
            sample("nginx", 1, requests_per_s=50_000.0, own_share=0.7),
            sample("waypost", 1, requests_per_s=25_000.0, own_share=0.99),
        )
    )

    assert "| (> 50,000: core not full) |" in text
    assert "| 25,000 |" in text


def test_a_figure_taken_beside_other_work_is_marked_as_noisy() -> None:
    noisy, quiet = sample("envoy", 1, foreign_share=0.2), sample("nginx", 1, foreign_share=0.01)

    assert "**Noisy:** others used more than 5% of the proxy's core for envoy." in render(report(noisy, quiet))
    assert "Noisy" not in render(report(quiet))


def test_the_parts_of_a_system_of_several_processes_are_shown() -> None:
    text = render(
        report(Sample("plain", "waypost", 1, {"cpu_us": 40.0, "cpu_us:python": 33.0, "cpu_us:postgres": 7.0}))
    )

    assert "waypost, CPU µs/request by process: python 33.0, postgres 7.0." in text


def test_failed_checks_catch_the_eye() -> None:
    text = render(report(checks=(Check("rows 1 = requests 2", is_ok=False), Check("house 0", is_ok=True))))

    assert "- **FAILED**: rows 1 = requests 2\n- ok: house 0" in text


def test_publishing_replaces_what_stands_between_the_markers_only() -> None:
    readme = f"# Title\n{BEGIN}\nold\n{END}\nthe end\n"

    published = publish(readme, "new figures\n")

    assert published == f"# Title\n{BEGIN}\nnew figures\n{END}\nthe end\n"
    assert publish(published, "new figures\n") == published
    with pytest.raises(ValueError, match="README"):
        publish("no markers", "figures")


def test_the_readme_has_its_markers() -> None:
    readme = Path(__file__).parents[2] / "bench" / "README.md"

    assert "figures" in publish(readme.read_text(), "figures")


def test_a_saved_report_reads_back(tmp_path: Path) -> None:
    written = report(sample("nginx", 1, cpu_us=20.0), checks=(Check("fine", is_ok=True),))
    out = tmp_path / "results" / "report.json"

    save(written, out)

    assert msgspec.json.decode(out.read_bytes(), type=Report) == written
