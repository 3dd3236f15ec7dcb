"""Counters of one process. Plain integers on the hot path (0.1 µs); prometheus-client renders them when asked.

A metric is kept for as long as the operator likes, so its labels are from an allow-list, and none has as many values as
there are requests or callers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LABELS = {
    # name of the label → what may stand in it
    "provider": "id from the operator's own configuration",
    "deployment": "id from the operator's own configuration",
    "model": "slug from the operator's own configuration",
    "outcome": "how an attempt or an execution ended",
    "code": "canonical error code",
    "reason": "why something failed, from a closed list of ours",
    "state": "state of an asynchronous execution",
    "child": "name of one of our processes",
}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counter:
    """`counts[labels] += 1`, labels being a tuple of strings in the order given."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.documentation, self.labels = name, documentation, labels
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, by: int = 1) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + by

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, count in self.counts.items():
            family.add_metric(labels, count)
        return family


class Histogram:
    """Durations in seconds over fixed buckets, by labels."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.documentation, self.labels = name, documentation, labels
        self._cells: dict[tuple[str, ...], list[float]] = {}  # counts per bucket, the rest, and last the sum

    def observe(self, seconds: float, *labels: str) -> None:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = [0] * (len(SECONDS) + 2)
        cell[bisect_left(SECONDS, seconds)] += 1
        cell[-1] += seconds

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, cell in self._cells.items():
            total = 0.0
            buckets = []
            for bound, count in zip((*SECONDS, float("inf")), cell[:-1], strict=True):
                total += count
                buckets.append((str(bound) if bound != float("inf") else "+Inf", total))
            family.add_metric(labels, buckets, cell[-1])
        return family


class Gauge:
    """A value read when the page is rendered."""

    def __init__(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self.name, self.documentation, self.read = name, documentation, read

    def family(self) -> Metric:
        return GaugeMetricFamily(self.name, self.documentation, value=self.read())


class LabelledGauge:
    """Values read when the page is rendered, by labels."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self.name, self.documentation, self.labels, self.read = name, documentation, labels, read

    def family(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in self.read().items():
            family.add_metric(labels, value)
        return family


class Page(Collector):
    """All metrics of this process, as Prometheus text."""

    def __init__(self) -> None:
        self._parts: list[Counter | Histogram | Gauge | LabelledGauge] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def counter(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> Counter:
        """Raises KeyError for a label outside LABELS."""
        _check(labels)
        part = Counter(name, documentation, labels)
        self._parts.append(part)
        return part

    def histogram(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> Histogram:
        """Raises KeyError for a label outside LABELS."""
        _check(labels)
        part = Histogram(name, documentation, labels)
        self._parts.append(part)
        return part

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self._parts.append(Gauge(name, documentation, read))

    def labelled_gauge(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        read: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """Raises KeyError for a label outside LABELS."""
        _check(labels)
        self._parts.append(LabelledGauge(name, documentation, labels, read))

    def collect(self) -> Iterator[Metric]:
        for part in self._parts:
            yield part.family()

    def render(self) -> bytes:
        return generate_latest(self._registry)


def _check(labels: tuple[str, ...]) -> None:
    for label in labels:
        if label not in LABELS:
            raise KeyError(f"{label} is not on the list of labels")
