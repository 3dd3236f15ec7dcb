"""The merged metrics page."""

from prometheus_client.parser import text_string_to_metric_families

from waypost.supervisor.metrics_page import merge
from waypost.telemetry.metrics import Page


def page_of(requests: int, model: str) -> bytes:
    page = Page()
    page.counter("waypost_requests", "Requests.", ("model",)).add(model, by=requests)
    page.gauge("waypost_uptime_seconds", "Uptime.", lambda: 1.5)
    page.histogram("waypost_latency_seconds", "Latency.", ("model",)).observe(0.02, model)
    return page.render()


def test_every_sample_of_every_process_is_there_once_with_its_process() -> None:
    merged = merge({"gateway-0": page_of(3, 'a"},b'), "gateway-1": page_of(4, "b")}).decode()

    families = {family.name: family for family in text_string_to_metric_families(merged)}
    requests = {
        (s.labels["process"], s.labels["model"]): s.value
        for s in families["waypost_requests"].samples
        if s.name == "waypost_requests_total"
    }
    assert requests == {("gateway-0", 'a"},b'): 3, ("gateway-1", "b"): 4}
    assert {s.labels["process"] for family in families.values() for s in family.samples} == {"gateway-0", "gateway-1"}


def test_a_family_stands_in_one_group_with_one_type() -> None:
    merged = merge({"gateway-0": page_of(3, "a"), "gateway-1": page_of(4, "a")}).decode()

    types = [line for line in merged.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == len(list(text_string_to_metric_families(merged)))


def test_what_is_not_in_the_format_is_left_out() -> None:
    assert merge({"supervisor": b"<html>\n\nup 1\n"}) == b'up{process="supervisor"} 1\n'
