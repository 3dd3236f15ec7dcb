"""From samples to figures: medians over rounds, ratios within a round, tables, and the README between its markers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from waypost.kit.values import replace

BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
COMPILED_BEGIN, COMPILED_END = "<!-- compiled:begin -->", "<!-- compiled:end -->"
CORE_FULL = 0.95  # from this share of its core on, the proxy was the limit and requests/s mean something
NOISE = 0.05  # others' share of the proxy's core above which a figure is marked


class Sample(msgspec.Struct, frozen=True):
    """One measurement of one system in one round."""

    scenario: str
    system: str
    round: int
    values: dict[str, float]


class Check(msgspec.Struct, frozen=True):
    """Something that must be true after the run, in words, with the numbers compared."""

    text: str
    is_ok: bool


class Report(msgspec.Struct, frozen=True):
    """The JSON result."""

    machine: dict[str, str]
    settings: dict[str, object]
    samples: tuple[Sample, ...]
    summary: dict[str, dict[str, dict[str, float]]]  # scenario, system, metric
    checks: tuple[Check, ...] = ()


def summarise(samples: Iterable[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """The median of every metric over its rounds, ratios included; counts are added up."""
    collected: dict[str, dict[str, dict[str, list[float]]]] = {}
    for sample in compare(samples):
        metrics = collected.setdefault(sample.scenario, {}).setdefault(sample.system, {})
        for name, value in sample.values.items():
            metrics.setdefault(name, []).append(value)
    return {
        scenario: {
            system: {name: _summary(name, values) for name, values in metrics.items()}
            for system, metrics in systems.items()
        }
        for scenario, systems in collected.items()
    }


def _summary(name: str, values: list[float]) -> float:
    return sum(values) if name in COUNTS else statistics.median(values)


COUNTS = frozenset({"requests", "warm_requests", "failed", "chunks"})
# Which metrics are set against which system of the same round: as a ratio, or as what is added to it.
RATIOS = {"cpu_us": ("nginx", "envoy"), "kib_per_stream": ("nginx", "envoy")}
ADDED = ("us_p50", "us_p99")


def compare(samples: Iterable[Sample]) -> list[Sample]:
    """Each sample with its ratios to nginx and Envoy, and its latency beyond the direct call, in the same round."""
    samples = list(samples)
    found = {(sample.scenario, sample.round, sample.system): sample.values for sample in samples}
    compared = []
    for sample in samples:
        values = dict(sample.values)
        for metric, baselines in RATIOS.items():
            for baseline in baselines:
                base = found.get((sample.scenario, sample.round, baseline), {}).get(metric, 0.0)
                if base > 0 and metric in values and sample.system != "direct":
                    values[f"{metric}_x_{baseline}"] = values[metric] / base
        direct = found.get((sample.scenario, sample.round, "direct"))
        if direct is not None and sample.system != "direct":
            values |= {
                f"added_{name}": values[name] - direct[name] for name in ADDED if name in values and name in direct
            }
        compared.append(replace(sample, values=values))
    return compared


Metrics = dict[str, float]


class Column(msgspec.Struct, frozen=True):
    """A column: its title and the metric's name and decimals."""

    title: str
    metric: str
    decimals: int = 0


CPU_COLUMNS = (Column("× nginx", "cpu_us_x_nginx", 2), Column("× Envoy", "cpu_us_x_envoy", 2))
LOAD_COLUMNS = (
    Column("core used", "own_share", 2),
    Column("others on the core", "foreign_share", 2),
    Column("failed", "failed"),
)
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "plain": (
        "Plain calls, closed loop",
        (
            Column("CPU µs/request", "cpu_us", 1),
            *CPU_COLUMNS,
            Column("requests/s", "requests_per_s"),
            Column("p50 µs", "us_p50"),
            Column("p99 µs", "us_p99"),
            *LOAD_COLUMNS,
        ),
    ),
    "stream": (
        "Streams at a fixed pace",
        (
            Column("CPU µs/stream", "cpu_us"),
            Column("CPU µs/chunk", "cpu_us_per_chunk", 2),
            *CPU_COLUMNS,
            Column("chunks/s", "chunks_per_s"),
            Column("chunks/read", "chunks_per_read", 2),
            Column("chunk p50 µs", "transit_us_p50"),
            Column("chunk p99 µs", "transit_us_p99"),
            *LOAD_COLUMNS,
        ),
    ),
    "latency": (
        "Latency at an even rate",
        (
            Column("p50 µs", "us_p50"),
            Column("p99 µs", "us_p99"),
            Column("added p50 µs", "added_us_p50"),
            Column("added p99 µs", "added_us_p99"),
            Column("CPU µs/request", "cpu_us", 1),
            *LOAD_COLUMNS,
        ),
    ),
    "memory": (
        "Memory of open streams",
        (
            Column("KiB/stream", "kib_per_stream", 1),
            Column("× nginx", "kib_per_stream_x_nginx", 2),
            Column("× Envoy", "kib_per_stream_x_envoy", 2),
            Column("streams", "requests"),
            Column("MiB before", "mib_before", 1),
            Column("failed", "failed"),
        ),
    ),
}


def render(report: Report) -> str:
    """All tables, the checks and the machine, as Markdown."""
    machine = report.machine
    taken = (
        f"Taken {machine['taken']} at commit {machine['commit']}: {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory']}, Linux {machine['kernel']}, {machine['python']}, {machine['modules']}, "
        f"uvloop {machine['uvloop']}, nginx {machine['nginx']}, Envoy {machine['envoy']}, wrk {machine['wrk']}."
    )
    lines = [
        taken,
        "Settings: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.settings.items()) + ".",
    ]
    for scenario, systems in report.summary.items():
        title, columns = TABLES[scenario]
        lines += ["", f"### {title}", "", *_table(columns, systems)]
        parts = [line for system, metrics in systems.items() if (line := _parts(system, metrics))]
        lines += ["", *parts] if parts else []
        noisy = [system for system, metrics in systems.items() if _noise(metrics) > NOISE]
        if noisy:
            lines += ["", f"**Noisy:** others used more than {NOISE:.0%} of the proxy's core for {', '.join(noisy)}."]
    if report.checks:
        lines += ["", "### Checks after the run", ""]
        lines += [f"- {'ok' if check.is_ok else '**FAILED**'}: {check.text}" for check in report.checks]
    return "\n".join(lines) + "\n"


def _noise(metrics: Metrics) -> float:
    return metrics.get("foreign_share", 0.0) + metrics.get("stolen_share", 0.0)


def _table(columns: Sequence[Column], systems: dict[str, Metrics]) -> list[str]:
    lines = ["| system | " + " | ".join(column.title for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for system, metrics in systems.items():
        lines.append(f"| {system} | " + " | ".join(_cell(column, metrics) for column in columns) + " |")
    return lines


def _cell(column: Column, metrics: Metrics) -> str:
    value = metrics.get(column.metric)
    if value is None:
        return "–"
    text = f"{value:,.{column.decimals}f}"
    if column.metric == "requests_per_s" and metrics.get("own_share", 0.0) < CORE_FULL:
        return f"(> {text}: core not full)"
    return text


def _parts(system: str, metrics: Metrics) -> str:
    """Where the CPU of a system of several processes went."""
    parts = {
        name.partition(":")[2]: value for name, value in metrics.items() if name.startswith("cpu_us:") and value >= 0.05
    }
    if len(parts) < 2:
        return ""
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return f"{system}, CPU µs/request by process: " + ", ".join(f"{name} {value:.1f}" for name, value in ordered) + "."


def publish(text: str, figures: str, *, begin: str = BEGIN, end: str = END) -> str:
    """The README's text with `figures` between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{begin} and {end} must both stand in the README")
    return f"{before}{begin}\n{figures.strip()}\n{end}{after}"


def save(report: Report, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
