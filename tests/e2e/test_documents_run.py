"""The examples of the documents, pasted: into a shell, and into Python."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.documents import Block, blocks, page
from tests.e2e.hosted import HostedStack, hosted
from tests.e2e.stack import PRICE, _url, deployment, document, model
from waypost.cli.command import cli
from waypost.simulator import Simulator

# Stands in for curl, which not every machine has. A key made a moment ago may not be known to the gateway yet.
_CURL = """\
#!{python}
import sys, time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

words = sys.argv[1:]
url = next(word for word in words if word.startswith("http"))
headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
data = words[words.index("-d") + 1].encode() if "-d" in words else None
for _ in range(100):
    try:
        print(urlopen(Request(url, data, headers), timeout=30).read().decode())
        break
    except HTTPError as error:
        if error.code not in (401, 429):  # too many tries in a minute
            raise
        time.sleep(0.1)
else:
    sys.exit("401")
"""
_RUN = """\
#!/bin/sh
[ "$1" = waypost ] || exit 2
shift
exec "{python}" -m waypost "$@"
"""


PYTHON = {path: list(found) for path, found in itertools.groupby(blocks("python"), key=lambda block: block.page)}
# Needs libraries that want an older openai: tried in an environment of their own, by ./run clients.
ELSEWHERE = frozenset(("docs/how-to/use-client-libraries.md",))


def page_of(shown: list[Block]) -> str:
    return shown[0].page


@pytest.fixture(scope="module")
def stack(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostedStack]:
    with hosted(postgres, tmp_path_factory.mktemp("docs")) as stack:
        stack.run(stack.stack.adopt(with_media(stack.stack.sim)))
        yield stack


def with_media(sim: Simulator) -> dict[str, Any]:
    """The usual catalogue, and the models that the documents make images and embeddings with."""
    whole = document(sim)
    route = deployment("alpha-provider")
    whole["models"] += [
        model("paint-1", route, modality="image", price={**PRICE, "image": "40000"}, features=[]),
        model("vectors-1", route, modality="embedding", context_window=8192, max_output=1, features=[]),
    ]
    return whole


def pasted(text: str, stack: HostedStack) -> str:
    """With this test's addresses, and a key."""
    text = text.replace("http://127.0.0.1:8080", stack.base_url.removesuffix("/v1"))
    return text.replace("http://127.0.0.1:9100", stack.stack.sim.url).replace("sk_…", stack.key)


def shell(script: str, stack: HostedStack, directory: Path) -> str:
    for name, text in (("curl", _CURL), ("run", _RUN)):
        program = directory / name
        program.write_text(text.format(python=sys.executable))
        program.chmod(stat.S_IRWXU)
    environment = {
        **os.environ,
        "PATH": f"{directory}:{os.environ['PATH']}",
        "WAYPOST_DATABASE_URL": _url(stack.stack.database),
        "WAYPOST_DATA_DIR": str(stack.stack.data_dir),
    }
    done = subprocess.run(
        ["sh", "-eu"], input=script, env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_steps_lead_to_an_answer_that_is_paid_for(stack: HostedStack, tmp_path: Path) -> None:
    steps = [block.text for block in page("README.md").blocks if block.language == "sh" and '"$ORG"' in block.text]
    asking = [block.text for block in page("README.md").blocks if block.language == "sh" and "curl" in block.text]
    (make, look), (ask,) = steps, asking
    # A row arrives some 20 ms after the answer, by another process.
    wait = 'until ./run waypost usage --org "$ORG" --json | grep -q swift-1; do sleep 0.05; done\n'
    said = shell(pasted(make + ask + wait + look, stack), stack, tmp_path)
    answer = json.loads(next(line for line in said.splitlines() if line.startswith('{"id"')))
    assert answer["choices"][0]["message"]["content"]
    assert "10.000000 USD" not in said
    assert re.search(r"total: 1 requests, 0\.\d+ USD", said)
    assert said.endswith("every rule holds\n")


@pytest.mark.parametrize("shown", [blocks for path, blocks in PYTHON.items() if path not in ELSEWHERE], ids=page_of)
def test_python_shown_runs(stack: HostedStack, shown: list[Block]) -> None:
    """All of a page together: what stands further down may use what stands above it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(pasted("\n".join(block.text for block in shown), stack), shown[0].page, "exec"), {})
    assert out.getvalue().strip()


def test_the_simulator_is_asked_for_faults_as_shown(stack: HostedStack, tmp_path: Path) -> None:
    shown = page("docs/how-to/try-failures-on-the-simulator.md").blocks
    (script,) = (block.text for block in shown if block.language == "sh" and "curl" in block.text)
    try:
        said = shell(pasted(script, stack), stack, tmp_path)
    finally:
        stack.disarm()
    assert [fault["kind"] for fault in json.loads(said.splitlines()[-2])["armed"]] == ["status", "error_event"]


def test_json_of_commands_is_as_documented(
    stack: HostedStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAYPOST_DATABASE_URL", _url(stack.stack.database))
    monkeypatch.setenv("WAYPOST_DATA_DIR", str(stack.stack.data_dir))

    def waypost(words: str) -> Any:
        typer.main.get_command(cli).main(args=words.split(), standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    org = waypost("org create acme --json")["id"]
    key = waypost(f"key create --org {org} --json")["id"]
    spent = waypost("org create another --json")["id"]
    arguments = {
        "org create": "other",
        "project create": f"other --org {org}",
        "project list": f"--org {org}",
        "budget list": f"--org {org}",
        "file limits": f"--org {org}",
        "file audit": f"--org {org}",
        "key create": f"--org {org}",
        "key rotate": key,
        "key list": f"--org {org}",
        "credit add": f"--org {spent} --usd 1",
        "balance": f"--org {org}",
        "usage": f"--org {org}",
    }
    for command, output in page("docs/reference/commands.md").rows("JSON"):
        if "…" in command or command.startswith(("`catalog diff", "`catalog price", "`credit refund")):
            continue  # wants a file, more than one version or an execution: tests/cli has them
        words = command.strip("`").removesuffix(" --json")
        answer = waypost(f"{words} {arguments.get(words, '')} --json")
        assert set(re.findall(r'"(\w+)"', output)) >= set(answer), words
        assert list(answer) == [name for name in re.findall(r'"(\w+)"', output) if name in answer], words
        for rows in answer.values():
            if isinstance(rows, list) and rows:
                assert set(rows[0]) <= set(re.findall(r'"(\w+)"', output)), words
