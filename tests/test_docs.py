"""The documents say what the code does: their tables are equal to it, and their examples are run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from tests.documents import ROOT, Block, blocks, code_of, page, pages
from waypost.app.live_settings import DRAIN_S
from waypost.app.settings import SettingsError, read_settings
from waypost.cli.command import cli
from waypost.control.file_bounds import FileBounds
from waypost.control.file_fetch import OUTPUT_BYTES_MAX
from waypost.control.file_store import INLINE_BYTES_MAX, UPLOADS_AT_ONCE, UPLOADS_OF_ONE
from waypost.gateway.cross_origin import EXPOSED
from waypost.gateway.models import ModelEntry, Pricing
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.catalogue import Breaker, Bulkhead, Timeouts
from waypost.policy.document import CatalogueError, read_catalogue
from waypost.simulator.directive import Directives
from waypost.simulator.fault import KINDS, PHASES
from waypost.simulator.job import JobDirectives
from waypost.simulator.job_style import JOB_STYLES
from waypost.simulator.provider import STYLES
from waypost.storage import files
from waypost.storage.file_sweep import AUDIT_LIFE
from waypost.stores.sealing import CHUNK_BYTES
from waypost.telemetry.events import FIELDS, Event
from waypost.transport.http1_response import TransportFailure
from waypost.transport.limits import ServerLimits
from waypost.wire.canonical import Audio, Choice, Completion, ToolCall, Usage
from waypost.wire.envelope import Envelope
from waypost.wire.file_type import EXTENSIONS
from waypost.wire.identity import AnswerIdentity
from waypost.wire.logprobs import Logprobs, TokenLogprob, TopLogprob
from waypost.wire.openai_chat_answer import render_completion

COMMON_OPTIONS = {"--config", "--data-dir", "--database-url", "--help"}
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))


def shown(block: Block) -> str:
    return f"{block.page}:{block.text.splitlines()[0][:40]}"


# Links.


def test_every_link_inside_the_repository_leads_somewhere() -> None:
    broken = []
    for each in pages():
        for link in each.links:
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / each.path).parent / path if path else ROOT / each.path
            if not target.exists():
                broken.append(f"{each.path}: {link}")
            elif anchor and anchor not in page(str(target.resolve().relative_to(ROOT))).anchors:
                broken.append(f"{each.path}: no heading {link}")
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    seen, waiting = set(), ["docs/README.md"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        links = [link.partition("#")[0] for link in page(path).links if "://" not in link]
        found = {str(((ROOT / path).parent / link).resolve().relative_to(ROOT)) for link in links if link}
        waiting += [each for each in found - seen - set(waiting) if each.startswith("docs/") and each.endswith(".md")]
    assert {each.path for each in pages() if each.path.startswith("docs/")} - seen == set()


# Commands.


def commands() -> Iterator[tuple[str, Any]]:
    """`org create` and the like, with what they take."""
    for name, command in typer.main.get_command(cli).commands.items():  # type: ignore[attr-defined]  # a group
        if hasattr(command, "commands"):
            yield from ((f"{name} {word}", inner) for word, inner in command.commands.items())
        else:
            yield name, command


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def test_every_command_and_option_is_documented_and_no_other() -> None:
    documented: dict[str, set[str]] = {}
    for row in page("docs/reference/commands.md").rows("All of them"):
        words = code_of(row[0])
        name = re.split(r" (?=[\[A-Z-])", words, maxsplit=1)[0]
        documented[name] = set(re.findall(r"--[a-z-]+", words))
    actual = {name: options_of(command) - COMMON_OPTIONS for name, command in commands()}
    assert documented == actual


def parse_command(words: list[str]) -> None:
    """Raises a usage error when the command line would not take these words."""
    command: Any = typer.main.get_command(cli)
    while hasattr(command, "commands"):
        assert words, "a group alone"
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context("waypost", list(words))


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    """Every `waypost …` in the shell blocks; what stands in $(…) too."""
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for found in re.finditer(r"(?:^|\()(?:\./run )?waypost ([^()#]+)", line):
                yield block.page, shlex.split(found[1])
            if line.startswith("./run demo"):
                yield block.page, shlex.split(line.removeprefix("./run "), comments=True)


def test_every_command_shown_is_one_that_the_command_line_takes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(shell_commands())
    assert len(found) >= 30
    for where, words in found:
        try:
            parse_command(words)
        except Exception as error:
            raise AssertionError(f"{where}: waypost {' '.join(words)}: {error}") from error


def test_the_environment_is_documented() -> None:
    text = page("docs/reference/commands.md").text
    inner = {
        "WAYPOST_CONTROL_SOCKET",
        "WAYPOST_DEMO_UPSTREAM_KEY",
        "WAYPOST_INTERNAL_SOCKET",
        "WAYPOST_LIMITS_COLUMN",
        "WAYPOST_LIMITS_FD",
        "WAYPOST_LISTEN_FD",
        "WAYPOST_PARENT_PID",
    }
    inner |= {"WAYPOST_PROCESS", "WAYPOST_WORKERS", "WAYPOST_SIBLING_FDS"}
    used = set(re.findall(r"WAYPOST_[A-Z_]+", SOURCE + (ROOT / "run").read_text())) - inner
    assert set(re.findall(r"WAYPOST_[A-Z_]+", text)) == used


# Configuration.

_STRANGER = "zzzzzzzz"
_SECTIONS = {
    # a place in the file → the heading that documents it
    "server": "`[server]`",
    "server.tls": "`[server.tls]`",
    "server.limits": "`[server.limits]`",
    "files": "`[files]`",
    "webhooks": "`[webhooks]`",
    "egress": "`[egress]`",
    "journal": "`[journal]`",
    "providers[0]": "`[[providers]]`",
    "providers[0].timeouts": "`timeouts`",
    "providers[0].bulkhead": "`bulkhead`",
    "providers[0].breaker": "`breaker`",
    "providers[1].job": "`[providers.job]`",
    "providers[1].job.states": "`states`",
    "providers[0].error_map[0]": "`[[providers.error_map]]`",
    "providers[0].error_map[0].match": "`match`",
    "models[0]": "`[[models]]`",
    "models[0].price": "`price`",
    "models[0].deployments[0]": "`[[models.deployments]]`",
    "models[0].deployments[0].cost": "`price`",
    "models[0].deployments[0].request": "`request`",
}


def known_fields(tmp_path: Path) -> dict[str, set[str]]:
    """Place → fields, as the code tells them when it meets a stranger."""
    stranger: dict[str, object] = {_STRANGER: 1}
    provider = {**stranger, "error_map": [{**stranger, "match": stranger}]}
    provider |= dict.fromkeys(("timeouts", "bulkhead", "breaker"), stranger)
    deployment = {**stranger, "cost": stranger, "request": stranger}
    described = {"kind": "http-job", "job": {**stranger, "states": stranger}}
    document: dict[str, object] = {"providers": [provider, described]}
    document["models"] = [{**stranger, "price": stranger, "deployments": [deployment]}]
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(document)
    config = tmp_path / "strangers.toml"
    places = ("server", "server.tls", "server.limits", "files", "webhooks", "egress", "journal")
    config.write_text("".join(f"[{place}]\n{_STRANGER} = 1\n" for place in places))
    with pytest.raises(SettingsError) as refused:
        read_settings(environment={}, data_dir=tmp_path, config_path=config)
    found = {}
    for mistake in (*caught.value.mistakes, *refused.value.mistakes):
        told = re.search(rf"(\S+)\.{_STRANGER}: unknown field; the known fields are (.*)", mistake)
        if told is not None:
            found[told[1].removeprefix(f"{config}: ")] = set(told[2].split(", "))
    return found


def test_every_field_of_the_configuration_is_documented_and_no_other(tmp_path: Path) -> None:
    known = known_fields(tmp_path)
    assert set(known) == set(_SECTIONS)
    text = page("docs/reference/configuration.md")
    for place, heading in _SECTIONS.items():
        assert {code_of(row[0]) for row in text.rows(heading)} == known[place], place


def test_documented_defaults_are_those_of_the_code() -> None:
    text = page("docs/reference/configuration.md")
    for heading, values in (("timeouts", Timeouts()), ("bulkhead", Bulkhead()), ("breaker", Breaker())):
        documented = {code_of(row[0]): float(code_of(row[1])) for row in text.rows(f"`{heading}`")}
        assert documented == msgspec.structs.asdict(values)
    server = {code_of(row[0]): code_of(row[1]) for row in text.rows("`[server]`")}
    assert float(server["drain_s"]) == DRAIN_S
    limits = {code_of(row[0]): float(code_of(row[1])) for row in text.rows("`[server.limits]`")}
    assert limits == msgspec.structs.asdict(ServerLimits())


@pytest.mark.parametrize("block", blocks("toml"), ids=shown)
def test_every_configuration_shown_is_accepted(block: Block, tmp_path: Path) -> None:
    config = tmp_path / "waypost.toml"
    config.write_text(block.text)
    read_settings(environment={}, data_dir=tmp_path, config_path=config)
    read_catalogue(tomllib.loads(block.text))


@pytest.mark.parametrize("block", blocks("json"), ids=shown)
def test_json_shown_is_json(block: Block) -> None:
    json.loads(block.text)


# Tables that repeat the code.


def test_every_error_code_is_documented_as_it_is() -> None:
    documented = {code_of(row[0]): tuple(row[1:]) for row in page("docs/reference/errors.md").rows("Errors")}
    codes = {code.name: (str(code.status), "yes" if code.is_retryable else "no", code.message) for code in ErrorCode}
    assert documented == codes


def test_every_metric_is_documented_as_it_is() -> None:
    made = re.findall(r'(counter|gauge|histogram)\(\s*"(waypost_\w+)",\s*"[^"]*"(?:,\s*\(([^)]*)\))?', SOURCE)
    metrics = {}
    for kind, name, labels in made:
        total = "_total" if kind == "counter" else ""
        metrics[name + total] = (kind, ", ".join(re.findall(r'"(\w+)"', labels)))
    rows = page("docs/reference/metrics.md").rows("Metrics")
    assert {code_of(row[0]): (row[1], row[2]) for row in rows} == metrics
    assert len(metrics) == SOURCE.count('"waypost_') - len(
        re.findall(r'= "waypost_(?:change|recall|execution|webhook|owner|app|settle)"', SOURCE)
    )


def test_every_reason_why_an_errand_was_not_sent_is_documented() -> None:
    words = r"NotSent\(\s*\"(\w+)\"|\"(gateway_busy|gateway_not_ready|invalid)\" (?:if|else)|reason = \"(resting)\" if"
    said = {word for found in re.findall(words, SOURCE) for word in found if word} | {"circuit_open"}
    rows = page("docs/reference/worker-port.md").rows("Reasons of `NotSent`")
    documented = {word for row in rows for word in re.findall(r"`(\w+)`", row[0])}
    failures = {failure.name.lower() for failure in TransportFailure}
    assert documented - failures == said
    assert {"dns", "connect_refused", "connect_timeout", "tls"} < documented


def test_scripts_of_other_sites_may_read_every_header_that_answers_are_said_to_have() -> None:
    rows = page("docs/reference/endpoints.md").rows("Answer headers")
    documented = [name for row in rows for name in re.findall(r"`([a-z-]+)(?:: \w+)?`", row[0])]
    assert sorted(EXPOSED.decode().split(", ")) == sorted(documented)


def test_every_event_and_field_is_documented_as_it_is() -> None:
    text = page("docs/reference/events.md")
    documented = {code_of(row[0]): (row[1], re.findall(r"`(\w+)`", row[2])) for row in text.rows("Events")}
    kinds = [kind for kind in Event.__subclasses__() if kind.__module__ == Event.__module__]
    assert documented == {kind.__name__: (kind.level, list(kind.__struct_fields__)) for kind in kinds}
    assert {code_of(row[0]): row[1] for row in text.rows("Fields")} == FIELDS
    for row in text.rows("Events"):
        is_written = re.search(rf"emit\(\s*{code_of(row[0])}\(", SOURCE) is not None
        assert is_written is not ("does not write it" in row[3]), row[0]


def test_every_answer_field_is_documented_and_no_other() -> None:
    likely = Logprobs([TokenLogprob("a", -1.0, [97], [TopLogprob("a", -1.0, [97])])])
    call, audio = ToolCall("1", "f", "{}"), Audio("1", "aa", "a")
    choice = Choice(0, "stop", "a", "a", "", [call], audio, likely)
    identity = AnswerIdentity("chatcmpl-0", 0, "m", b"", b"", Envelope(b""))
    whole = render_completion(Completion([choice]), identity, Usage(is_estimated=True), "0.00")
    legacy = render_completion(Completion([choice]), replace(identity, uses_functions=True), Usage(), "0.00")
    fields = leaves(json.loads(whole)) | leaves(json.loads(legacy))
    fields.discard("choices[].logprobs.refusal")  # null here; documented beside `content`
    rows = page("docs/reference/answer-fields.md").rows("A completion")
    assert {code_of(row[0]) for row in rows} - {"choices[].logprobs"} == fields

    model = page("docs/reference/answer-fields.md").text.partition("## A model")[2]
    named = set(re.findall(r"`(\w+)`", model))
    assert named - {"waypost"} == {*ModelEntry.__struct_fields__, *Pricing.__struct_fields__}


def leaves(value: object, path: str = "") -> set[str]:
    """`a.b[].c` for every value that holds no other."""
    if isinstance(value, Mapping):
        return set().union(*(leaves(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items()))
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return leaves(value[0], f"{path}[]")
    return {path}


def test_the_simulator_is_documented_as_it_is() -> None:
    text = page("docs/reference/simulator.md")
    prefixes = {row[0]: code_of(row[1]).partition("9100")[2] for row in text.rows("The simulator")}
    assert prefixes == {style.name: style.prefix for style in STYLES}
    prefixes = {row[0]: code_of(row[1]).partition("9100")[2] for row in text.rows("Jobs")}
    assert prefixes == {style.name: style.prefix for style in JOB_STYLES}
    assert [code_of(row[0]) for row in text.rows("Directives")] == list(Directives.__struct_fields__)
    assert [code_of(row[0]) for row in text.rows("Directives of jobs")] == list(JobDirectives.__struct_fields__)
    faults = {}
    for kind, phases, parameters, _ in text.rows("Faults"):
        faults[code_of(kind)] = (tuple(phases.split(", ")), tuple(re.findall(r"`(\w+)`", parameters)))
    assert faults == {name: (kind.phases, kind.params) for name, kind in KINDS.items()}
    assert all(f"`{phase}`" in text.text for phase in PHASES)


def test_the_limits_of_the_server_are_documented_as_they_are() -> None:
    text = page("docs/reference/endpoints.md").text.partition("## Limits of the server")[2]
    limits = ServerLimits()
    for told in (
        f"{limits.header_count} lines, {limits.header_bytes >> 10} KiB together, {limits.line_bytes >> 10} KiB a line",
        f"{limits.body_bytes >> 20} MiB: else 413. Bodies held at one time: {limits.buffered_bytes >> 20} MiB",
        f"{limits.image_body_bytes >> 20} MiB in all for a call that may hold images",
        f"headers {limits.head_s:.0f} s; body {limits.body_s:.0f} s, and after {limits.body_grace_s:.0f} s",
        f"at least {limits.body_bytes_per_s:,} bytes a second",
        f"{limits.keep_alive_s:.0f} s",
        f"{limits.stalled_reader_s:.0f} s with more than {limits.write_high_water_bytes >> 10} KiB",
    ):
        assert told in text


# What must never stand in a document.


def test_no_document_names_a_place_of_somebodys_machine() -> None:
    for each in pages():
        assert re.findall(r"/(?:home|root|work|Users)/\S*", each.text) == [], each.path


def test_the_bounds_of_files_are_documented_as_they_are() -> None:
    text = page("docs/reference/files.md").text
    bounds = FileBounds()
    for told in (
        f"more than {bounds.bytes_max >> 20} MiB (`bytes_max`)",
        f"more than {files.PENDING_MAX:,} uploads begun",
        f"or {UPLOADS_AT_ONCE} uploads are under way, or {UPLOADS_OF_ONE} of",
        f"inside the request as base64 ({INLINE_BYTES_MAX >> 20} MiB at most",
        f"up to {OUTPUT_BYTES_MAX >> 30} GiB",
        f"chunks of {CHUNK_BYTES >> 10} KiB",
        f"kept for {AUDIT_LIFE.days} days",
    ):
        assert told in text, told
    rows = {code_of(row[0]): row[1] for row in page("docs/reference/configuration.md").rows("`[files]`")}
    assert {name: int(code_of(rows[name])) for name in bounds.__struct_fields__} == msgspec.structs.asdict(bounds)


def test_every_type_of_files_is_documented() -> None:
    section = page("docs/reference/files.md").text.partition("## Types")[2].partition("##")[0].lower()
    spelled = {"jpg": "jpeg", "mov": "quicktime", "mkv": "matroska"}
    assert [each for each in EXTENSIONS.values() if spelled.get(each, each) not in section] == []
