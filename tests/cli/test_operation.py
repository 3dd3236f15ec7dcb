"""The catalogue, nodes, books and doctor by command; errors as sentences; the embedded database; `up`."""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.conftest import Waypost, url_of
from tests.policy.samples import FULL
from tests.ports import reserved_port
from waypost.app import failure
from waypost.supervisor.up import LOCK_NAME

DEARER = FULL.replace('output = "10.00"', 'output = "12.00"')


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def output_price(waypost: Waypost) -> tuple[int, str]:
    shown = waypost("catalog", "show").json
    return shown["version"], shown["models"][0]["price"]["output"]


def test_versions_are_applied_shown_listed_and_rolled_back_to(waypost: Waypost, nowhere: Path) -> None:
    first, second = write(nowhere / "first", FULL), write(nowhere / "second", DEARER)
    assert waypost("catalog", "apply", first).line == "version 1"
    assert waypost("catalog", "apply", first).line == "unchanged"
    assert waypost("catalog", "apply", second).line == "version 2"
    assert output_price(waypost) == (2, "12.00")
    changes = waypost("catalog", "diff", "1", "2", "--json").json["changes"]
    assert {"place": "models[swift-1].price.output", "before": '"10.00"', "after": '"12.00"'} in changes
    assert "models[swift-1].price.output" in waypost("catalog", "diff", "1").out
    assert waypost("catalog", "diff", "1", "9").err == (
        "waypost: there is no catalogue version 9: see `waypost catalog history`\n"
    )
    assert waypost("catalog", "rollback", "1").line == "version 3"
    assert output_price(waypost) == (3, "10.00")
    # An explicit command is obeyed whatever was applied before.
    assert waypost("catalog", "apply", second).line == "version 4"
    history = waypost("catalog", "history", "--json").json["versions"]
    assert [row["version"] for row in history] == [4, 3, 2, 1]
    assert history[1]["source"] == "rollback to 1"
    assert waypost("catalog", "history").out.splitlines()[0].split() == ["version", "applied_at", "source"]


def test_a_shown_version_can_be_applied_again(waypost: Waypost, nowhere: Path) -> None:
    waypost("catalog", "apply", write(nowhere / "first", FULL))
    shown = waypost("catalog", "show").json
    assert shown["models"][0]["created"] > 1_700_000_000
    assert shown["providers"][0]["api_keys"] == ["env:ALPHA_API_KEY"]


def test_a_file_with_mistakes_is_refused_whole(waypost: Waypost, nowhere: Path) -> None:
    path = write(nowhere / "bad", FULL.replace("weight", "wieght").replace('slug = "swift-1"', "slug = 1"))
    done = waypost("catalog", "apply", path)
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 2
    assert f"waypost: {path}: models[0].deployments[0].wieght: unknown field; did you mean 'weight'?\n" in done.err
    assert waypost("catalog", "history", "--json").json == {"versions": []}


def test_a_plain_credential_is_kept_out_of_the_database(waypost: Waypost, nowhere: Path, tmp_path: Path) -> None:
    path = write(nowhere / "plain", FULL.replace("env:ALPHA_API_KEY", "plain:sk-canary"))
    assert waypost("catalog", "apply", path).line == "version 1"
    shown = waypost("catalog", "show").out
    assert "canary" not in shown
    (reference,) = json.loads(shown)["providers"][0]["api_keys"]
    kept = Path(reference.removeprefix("file:"))
    assert kept.parent == tmp_path / "data/secrets/credentials"
    assert kept.read_text() == "sk-canary\n"
    assert waypost("catalog", "apply", path).line == "unchanged"


def test_what_is_not_there_is_told_with_what_to_do(waypost: Waypost, nowhere: Path) -> None:
    assert waypost("catalog", "show").err == (
        "waypost: there is no catalogue yet: apply one with `waypost catalog apply FILE`\n"
    )
    assert waypost("catalog", "rollback", "7").err == (
        "waypost: there is no catalogue version 7: see `waypost catalog history`\n"
    )
    missing = waypost("catalog", "apply", "none.toml")
    assert (missing.code, missing.err) == (1, "waypost: none.toml: cannot be read: No such file or directory\n")


def test_the_books_of_a_new_deployment_hold(waypost: Waypost, org: str) -> None:
    waypost("credit", "add", "--org", org, "--usd", "5")
    checked = waypost("ledger", "check", "--json").json
    assert (checked["ok"], checked["violations"]) == (True, [])
    assert set(checked["totals"]) == {
        f"{name}_nanos" for name in ("credited", "charged", "cogs", "house", "available", "held", "suspense")
    }
    assert checked["totals"]["credited_nanos"] == checked["totals"]["available_nanos"] == "5000000000"
    assert waypost("ledger", "check").out.splitlines()[-1] == "every rule holds"


def test_no_nodes_are_an_empty_list(waypost: Waypost) -> None:
    assert waypost("node", "list", "--json").json == {"nodes": []}
    assert waypost("node", "list").out == ""


def findings(out: str) -> dict[str, str]:
    """Subject → verdict."""
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    return {line[6:27].strip(): line[:5].strip() for line in lines}


def test_the_doctor_looks_at_everything(waypost: Waypost, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as provider:
        port = provider.getsockname()[1]
        waypost("catalog", "apply", write(nowhere / "f", FULL.replace("9100", str(port))))
        monkeypatch.setenv("ALPHA_API_KEY", "sk-canary")
        done = waypost("doctor")
    assert done.code == 0, done.out
    assert findings(done.out) == dict.fromkeys(
        (
            "modules",
            "secrets",
            "disk",
            "journal",
            "up",
            "files",
            "database",
            "peppers",
            "standby",
            "clock",
            "jobs",
            "webhooks",
            "catalogue",
            "credential of alpha",
            "gateway",
            "provider alpha",
        ),
        "ok",
    )
    assert "canary" not in done.out
    assert "      data_dir " in done.out


def test_the_doctor_says_of_the_file_what_up_would_say(
    waypost: Waypost, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPHA_API_KEY", raising=False)
    write(nowhere / "waypost.toml", FULL)
    done = waypost("doctor")

    assert done.code == 1
    assert findings(done.out)["configuration"] == "FAIL"
    assert "ALPHA_API_KEY is not set" in done.out


def test_a_credential_that_only_the_running_up_has_is_a_doubt(
    waypost: Waypost, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPHA_API_KEY", raising=False)
    write(nowhere / "waypost.toml", FULL)
    with (tmp_path / "data" / LOCK_NAME).open("w") as lock:
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = waypost("doctor")

    assert findings(done.out)["configuration"] == "warn"
    assert "ALPHA_API_KEY is not set: so it is for this command" in done.out


@pytest.mark.parametrize(
    "words",
    [
        ("org", "list"),
        ("node", "list"),
        ("backup", "b.tgz"),
        ("ledger", "check"),
        ("catalog", "show"),
        ("file", "rotate-key"),
        ("doctor",),
    ],
)
def test_a_mistyped_data_directory_makes_no_deployment(run: Waypost, tmp_path: Path, words: tuple[str, ...]) -> None:
    typo = tmp_path / "typo"
    done = run(*words, "--data-dir", str(typo))

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"waypost: there is no deployment in {typo}: check --data-dir")
    assert not typo.exists()


@pytest.mark.parametrize("words", ["file rotate-key", "key create --org ORG", "key rotate KEY"])
def test_a_mistyped_data_directory_gets_no_secrets_where_the_database_is_elsewhere(
    waypost: Waypost, org: str, tmp_path: Path, words: str
) -> None:
    waypost("key", "create", "--org", org)
    names = {"ORG": org, "KEY": json.loads(waypost("key", "list", "--org", org, "--json").out)["keys"][0]["id"]}
    typo = tmp_path / "typo"
    done = waypost(*(names.get(word, word) for word in words.split()), "--data-dir", str(typo))

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"waypost: there are no secrets in {typo / 'secrets'}: check --data-dir")
    assert not typo.exists()


def test_the_doctor_finds_missing_secrets_and_goes_on_and_makes_nothing(
    run: Waypost, empty_database: str, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYPOST_DATABASE_URL", url_of(empty_database))
    monkeypatch.delenv("ALPHA_API_KEY", raising=False)
    write(nowhere / "waypost.toml", FULL)
    new = tmp_path / "new"
    done = run("doctor", "--data-dir", str(new))

    assert done.code == 1
    assert f"      data_dir             {new}" in done.out
    assert f"FAIL  secrets              there are no secrets in {new / 'secrets'}: check --data-dir" in done.out
    assert "ALPHA_API_KEY is not set" in done.out
    verdicts = findings(done.out)
    assert (verdicts["journal"], verdicts["files"], verdicts["database"]) == ("ok", "warn", "FAIL")
    assert "`waypost up` makes it" in done.out
    assert not new.exists()
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_the_doctor_makes_no_secrets_in_the_place_of_lost_ones(waypost: Waypost, nowhere: Path, tmp_path: Path) -> None:
    waypost("catalog", "apply", write(nowhere / "waypost.toml", FULL))
    shutil.rmtree(tmp_path / "data/secrets")
    done = waypost("doctor")

    verdicts = findings(done.out)
    assert (verdicts["secrets"], verdicts["database"], verdicts["catalogue"]) == ("FAIL", "ok", "ok")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == []


def test_a_first_organisation_makes_a_deployment_and_a_later_one_made_from_elsewhere_no_other(
    run: Waypost, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYPOST_DATABASE_URL", url_of(database))
    here, elsewhere = str(tmp_path / "here-it-is"), str(tmp_path / "elsewhere")
    org = run("org", "create", "acme", "--data-dir", here).line
    assert run("key", "create", "--org", org, "--data-dir", here).code == 0

    assert run("org", "create", "other", "--data-dir", elsewhere).code == 0
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_to_be_typed_after_a_restore_names_the_directory(
    waypost: Waypost, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, place = str(tmp_path / "b.tgz"), str(tmp_path / "new one")
    assert waypost("backup", file, "--without-secrets").code == 0
    monkeypatch.setenv("WAYPOST_DATABASE_URL", url_of(empty_database))

    line = waypost("restore", file, "--data-dir", place).line

    assert f"`waypost ledger check --data-dir '{place}'`, then `waypost up --data-dir '{place}'`" in line


def test_the_doctor_tells_what_is_wrong(waypost: Waypost, nowhere: Path, tmp_path: Path) -> None:
    (tmp_path / "data/journal/gateway-0").mkdir(parents=True)
    (tmp_path / "data/journal/gateway-0/0001.wal.damaged").touch()
    with reserved_port() as port:
        waypost("catalog", "apply", write(nowhere / "waypost.toml", FULL.replace("9100", str(port))))
        (tmp_path / "data/secrets").chmod(0o755)
        done = waypost("doctor")
    assert done.code == 1
    verdicts = findings(done.out)
    assert (verdicts["secrets"], verdicts["journal"], verdicts["provider alpha"]) == ("FAIL", "warn", "FAIL")
    assert verdicts["credential of alpha"] == "warn"
    assert f"127.0.0.1:{port} cannot be reached" in done.out
    assert f"run chmod 700 {tmp_path / 'data/secrets'}" in done.out


def test_a_database_that_does_not_answer_is_told_so_without_its_password(waypost: Waypost) -> None:
    with reserved_port() as port:
        url = f"postgresql://waypost:canary@127.0.0.1:{port}/waypost"
        done, examined = waypost("node", "list", "--database-url", url), waypost("doctor", "--database-url", url)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "waypost: the database does not answer: check --database-url (WAYPOST_DATABASE_URL), and try `waypost doctor`\n"
    )
    assert examined.code == 1
    assert findings(examined.out)["database"] == "FAIL"
    assert "canary" not in examined.out + examined.err


def test_a_mistake_in_the_settings_is_told_before_anything_is_started(run: Waypost, nowhere: Path) -> None:
    path = write(nowhere / "waypost.toml", "[server]\ndrain = 1\n[egres]\n")
    for words in (("node", "list"), ("up",), ("gateway",), ("doctor",)):
        done = run(*words)
        assert (done.code, done.out) == (1, "")
        assert done.err.splitlines() == [
            f"waypost: {path}: server.drain: unknown field; did you mean 'drain_s'?",
            f"waypost: {path}: egres: unknown field; did you mean 'egress'?",
        ]
    assert not (nowhere.parent / "xdg").exists()


def test_a_restart_needs_something_that_runs(run: Waypost, tmp_path: Path) -> None:
    done = run("restart", "--data-dir", str(tmp_path))
    assert (done.code, done.err) == (
        1,
        f"waypost: no `waypost up` runs on {tmp_path}: start it, or give its --data-dir.\n",
    )


@pytest.mark.parametrize("command", ["up", "demo", "gateway"])
def test_nobody_is_served_in_the_clear_from_other_machines(run: Waypost, command: str) -> None:
    done = run(command, "--host", "0.0.0.0")
    assert done.code == 1
    assert "0.0.0.0 is reachable from other machines, and there is no TLS: set tls =" in done.err


def test_a_mistake_of_ours_is_one_line_without_content(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down() -> None:
        raise KeyError("canary")

    monkeypatch.delenv(failure.TRACE, raising=False)
    with pytest.raises(KeyError) as caught:
        break_down()
    (line,) = failure.sentences(caught.value)
    assert line.startswith(f"a mistake of ours (KeyError at {__file__}:")
    monkeypatch.setenv(failure.TRACE, "1")
    traced = failure.sentences(caught.value)
    assert len(traced) > 1
    assert "canary" not in " ".join((line, *traced))


def test_help_tells_every_command(run: Waypost) -> None:
    done = run("--help")
    assert done.code == 0
    for command in ("up", "demo", "gateway", "sim", "doctor", "org", "key", "credit", "balance", "usage", "catalog"):
        assert f"\n  {command} " in done.out


def test_without_a_database_the_embedded_one_is_started_and_stopped(run: Waypost, tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path / "data"))
    org = run("org", "create", "acme", *where).line
    assert run("balance", "--org", org, "--json", *where).json["usd"] == "0.000000"
    assert (tmp_path / "data/postgres/cluster/PG_VERSION").exists()
    assert not (tmp_path / "data/postgres/cluster/postmaster.pid").exists()


def get(url: str, key: str) -> Any:
    address = url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def serving(waypost: Waypost, org: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A key, and the configuration file's text."""
    monkeypatch.setenv("ALPHA_API_KEY", "sk-alpha")
    (tmp_path / "waypost.toml").write_text(FULL)
    return waypost("key", "create", "--org", org).line, FULL


async def start_up(config: Path) -> tuple[asyncio.subprocess.Process, str]:
    """`waypost up` on the database of the environment, and the line that it printed first."""
    line = [sys.executable, "-m", "waypost", "up", "--config", str(config), "--port", "0", "--metrics-port", "0"]
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode()


async def test_up_serves_what_commands_made_and_keeps_the_last_version_when_the_file_is_bad(
    serving: tuple[str, str], tmp_path: Path
) -> None:
    key, good = serving
    config = tmp_path / "waypost.toml"
    process, ready = await start_up(config)
    try:
        word, _, url = ready.strip().rpartition(" ")
        assert word == "waypost ready"
        status, listed = await asyncio.to_thread(get, url, key)
        assert (status, [model["id"] for model in listed["data"]]) == (200, ["swift-1"])

        config.write_text(good.replace("swift-1", "swift 1"))
        assert process.stderr is not None
        async for line in process.stderr:
            if line.startswith(b"waypost: "):
                break
        assert b"models[0].slug: expected a name" in line
        status, listed = await asyncio.to_thread(get, url, key)
        assert (status, [model["id"] for model in listed["data"]]) == (200, ["swift-1"])
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = await process.communicate()
    assert process.returncode == 0, told.decode()


def test_up_refuses_a_port_that_is_taken(waypost: Waypost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = waypost("up", "--port", str(port))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"waypost: Port {port} cannot be used")


def test_the_price_book_compares_imports_and_remembers(waypost: Waypost, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    text = """
[[providers]]
id = "alpha"
kind = "openai"
base_url = "https://api.openai.com/v1"
api_keys = ["env:ALPHA_API_KEY"]
[[models]]
slug = "small"
modality = "chat"
context_window = 128000
max_output = 16384
price = { input = "0.50", output = "2.00" }
[[models.deployments]]
provider = "alpha"
upstream_model = "gpt-4o-mini"
cost = { input = "0.01", output = "0.60" }
"""
    file.write_text(text)
    assert waypost("catalog", "apply", str(file)).code == 0
    (row,) = waypost("catalog", "prices", "--json").json["deployments"]
    assert (row["verdict"], row["cost"]["input"], row["listed"]["input"]) == ("differs", "0.01", "0.15")
    assert "input 0.01, listed 0.15" in waypost("catalog", "prices", "--model", "small").out
    assert waypost("catalog", "prices", "--import").code == 0
    (row,) = waypost("catalog", "prices", "--json").json["deployments"]
    assert row["verdict"] == "as listed"
    changes = waypost("catalog", "price-history", "small", "--json").json["changes"]
    costs = [each for each in changes if each["place"].endswith(".cost.input")]
    assert [(each["before"], each["after"]) for each in costs] == [('"0.01"', '"0.15"'), (None, '"0.01"')]
    assert waypost("catalog", "prices", "--model", "nobody").code == 1
